// SPDX-License-Identifier: Apache-2.0

package index

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/seekoci/seekoci/ztoc"
)

// DefaultMinLayerSize is the incumbent's, in bytes.
const DefaultMinLayerSize = 10 << 20

// maxWorkers bounds the default of Workers: indexing one layer keeps several cores busy.
const maxWorkers = 4

// BuildOptions configures Build and Convert.
type BuildOptions struct {
	ZTOC         ztoc.BuildOptions // Compression is ignored: the layer's media type says it
	MinLayerSize int64             // bytes; layers below get no zTOC; 0 means DefaultMinLayerSize, negative none
	// CompactSpanSize are the target uncompressed bytes a span of a compact zTOC, made for each layer beside the
	// zTOC; 0 means none is made.
	CompactSpanSize int64
	// DisableXattrs marks zTOCs without xattrs and opaque directories (--optimizations xattr).
	DisableXattrs bool
	Workers       int // layers indexed at once; 0 means GOMAXPROCS, but at most 4
	// Prefetch are paths of files whose spans are listed in prefetch artifacts; nil means none.
	Prefetch []string
	// Reuse returns the zTOC already made of layer in the format of a media type, MediaTypeZTOC or MediaTypeCompact,
	// with this span size (as on the wire: 0 is every block), if there is one; nil means none. It is asked before the
	// work begins, one call at a time.
	Reuse func(layer digest.Digest, mediaType string, spanSize int64) (ocispec.Descriptor, bool)
	// OnLayer is told what became of each layer, in layer order, one call at a time, before anything is pushed;
	// nil means nobody.
	OnLayer func(LayerResult)
	// OnPrefetch is told, after all layers, of prefetch artifacts made and files not found; nil means nobody.
	OnPrefetch func(PrefetchResult)
	// OnProgress is told of compressed bytes read of layer, from many goroutines; nil means nobody.
	OnProgress func(layer ocispec.Descriptor, n int64)
}

// withDefaults fills in what zero values mean. MinLayerSize 0 then means none.
func (o BuildOptions) withDefaults() BuildOptions {
	if o.ZTOC.SpanSize == 0 {
		o.ZTOC.SpanSize = ztoc.DefaultSpanSize
	}
	if o.ZTOC.BuildTool == "" {
		o.ZTOC.BuildTool = ztoc.DefaultBuildTool
	}
	switch {
	case o.MinLayerSize == 0:
		o.MinLayerSize = DefaultMinLayerSize
	case o.MinLayerSize < 0:
		o.MinLayerSize = 0
	}
	if o.Workers <= 0 {
		o.Workers = min(runtime.GOMAXPROCS(0), maxWorkers)
	}
	o.Prefetch = cleanPaths(o.Prefetch)
	return o
}

// LayerResult says what became of one layer.
type LayerResult struct {
	Layer   ocispec.Descriptor
	ZTOC    ocispec.Descriptor // zero if skipped
	Compact ocispec.Descriptor // its compact zTOC; zero if skipped or not asked for
	Reused  bool
	Skip    string // reason in the incumbent's words; "" if not skipped
}

// String is the incumbent's line for the result, with the compact zTOC added if there is one.
func (r LayerResult) String() string {
	if r.Skip != "" {
		return fmt.Sprintf("ztoc skipped - layer %s (%s) %s", r.Layer.Digest, r.Layer.MediaType, r.Skip)
	}
	s := fmt.Sprintf("layer %s -> ztoc %s", r.Layer.Digest, r.ZTOC.Digest)
	if r.Compact.Digest != "" {
		s += fmt.Sprintf(", compact %s", r.Compact.Digest)
	}
	if r.Reused {
		s += " (already exists)"
	}
	return s
}

// Build makes the zTOCs of an image manifest and its SOCI index, pushes all of them to
// store and returns the index and its descriptor. version V2 makes an unbound index.
//
// Each layer is read once and verified while it is read. Nothing is pushed before
// all layers succeeded, and the index is pushed last. Errors match ErrNoZTOCs if every layer
// was skipped, ErrDigest if a layer is not what the manifest promises.
func Build(ctx context.Context, store Store, manifest ocispec.Descriptor, version Version, opts BuildOptions) (*Index, ocispec.Descriptor, error) {
	m, err := fetchManifest(ctx, store, manifest)
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	q := queue{limit: maxHeld}
	defer q.close()
	x, desc, err := build(ctx, store, m, manifest, version, opts.withDefaults(), &q)
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	if err := q.push(ctx, store); err != nil {
		return nil, ocispec.Descriptor{}, fmt.Errorf("store SOCI index of image manifest %s: %w", manifest.Digest, err)
	}
	return x, desc, nil
}

// build makes an index; what is to be pushed of it is queued.
func build(ctx context.Context, store Store, m *manifest, subject ocispec.Descriptor, version Version, opts BuildOptions, q *queue) (*Index, ocispec.Descriptor, error) {
	if version.ArtifactType() == "" {
		return nil, ocispec.Descriptor{}, fmt.Errorf("build SOCI index: no version %d", version)
	}
	b := &builder{store: store, opts: opts, queue: q}
	b.plan(m)
	if err := b.run(ctx); err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	x := &Index{Version: version, BuildTool: opts.ZTOC.BuildTool}
	if version == V1 {
		x.Subject = &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	}
	x.Layers = b.queueZTOCs(0)
	if len(x.Layers) == 0 {
		return nil, ocispec.Descriptor{}, ErrNoZTOCs
	}
	artifacts, err := b.prefetch()
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	x.Layers = append(x.Layers, artifacts...)
	if opts.CompactSpanSize != 0 {
		x.Layers = append(x.Layers, b.queueZTOCs(1)...)
	}
	p, desc, err := x.Marshal()
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	q.addBytes(version.Config(), []byte(emptyConfig))
	q.addBytes(desc, p)
	return x, desc, nil
}

// queueZTOCs queues the zTOCs of want n, in layer order, and returns their descriptors.
func (b *builder) queueZTOCs(n int) []ocispec.Descriptor {
	var made []ocispec.Descriptor
	for _, j := range b.jobs {
		if j.result.Skip != "" {
			continue
		}
		d := []ocispec.Descriptor{j.result.ZTOC, j.result.Compact}[n]
		made = append(made, d)
		if j.content != nil {
			b.queue.add(d, j.content[n])
		}
	}
	return made
}

// builder makes the zTOCs of one image manifest.
type builder struct {
	store Store
	opts  BuildOptions // with defaults
	queue *queue
	jobs  []*job // by layer; layers of one digest share a job

	mu   sync.Mutex // guards told, job.done and the calls of OnLayer
	told int        // layers OnLayer was told of
}

// plan makes the jobs: what is to be done with each layer.
func (b *builder) plan(m *manifest) {
	seen := make(map[key]*job)
	for _, l := range m.Layers {
		k := key{l.Digest, l.MediaType}
		j := seen[k]
		if j == nil || j.layer.Size != l.Size {
			j = newJob(l.Descriptor, b.opts)
			seen[k] = j
		}
		b.jobs = append(b.jobs, j)
	}
}

// run does the jobs, the largest layers first.
func (b *builder) run(ctx context.Context) error {
	order := slices.Clone(b.jobs)
	slices.SortStableFunc(order, func(x, y *job) int { return cmp.Compare(y.layer.Size, x.layer.Size) })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(b.opts.Workers)
	started := make(map[*job]bool)
	for _, j := range order {
		if started[j] {
			continue
		}
		started[j] = true
		if j.result.Skip != "" {
			b.finish(j)
			continue
		}
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := j.run(ctx, b); err != nil {
				return fmt.Errorf("layer %s: %w", j.layer.Digest, err)
			}
			b.finish(j)
			return nil
		})
	}
	return g.Wait()
}

// finish notes that j is done and tells of every layer whose turn has come.
func (b *builder) finish(j *job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	j.done = true
	for ; b.told < len(b.jobs) && b.jobs[b.told].done; b.told++ {
		if b.opts.OnLayer != nil {
			b.opts.OnLayer(b.jobs[b.told].result)
		}
	}
}

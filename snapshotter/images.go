// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/seekoci/seekoci/index"
)

// Bounds of what an image may make the daemon read and hold.
const (
	maxManifestSize = 4 << 20
	maxConfigSize   = 16 << 20
	maxLayers       = 1024
	maxCachedImages = 64
	maxCachedZTOCs  = 128 << 20 // bytes of zTOCs fetched ahead, of all images

	imageTTL   = 5 * time.Minute
	noIndexTTL = 10 * time.Second // an index may be pushed any moment
)

// imageKey names a lookup: the same manifest in another repository, or with
// another explicit index, is another lookup.
type imageKey struct {
	image           string
	manifest, index digest.Digest
}

// image is what a lookup found. All but what mu guards is immutable.
type image struct {
	repo   repository
	layers []ocispec.Descriptor
	diffs  []digest.Digest // diffIDs, one per layer
	chains []digest.Digest // chain IDs, one per layer
	index  *index.Index    // nil: the image has none
	none   error           // what was looked for, where index is nil
	expire time.Time

	mu    sync.Mutex
	ahead map[digest.Digest]*content // fetched ahead, or about to be, and not yet taken
	held  int64                      // bytes of them

	pull atomic.Pointer[pull] // its layers that are being unpacked ahead; nil if none are; set with mu held
}

// images looks images up: once for all layers of a pull, and for all pulls at
// the same time. What was found is kept a while; an error never is.
type images struct {
	repos    repositories
	find     index.FindOptions
	policy   Policy
	workers  int
	timeout  time.Duration
	log      *slog.Logger
	observe  func(Operation, digest.Digest, time.Duration)
	tasks    *tasks
	inflight sync.WaitGroup

	mu      sync.Mutex
	cache   []imageEntry // least recently used first
	flights map[imageKey]*flight
}

type imageEntry struct {
	key imageKey
	img *image
}

// flight is a lookup under way. It is cancelled when nobody waits for it any more.
type flight struct {
	cancel  context.CancelFunc
	waiters int // guarded by images.mu
	done    chan struct{}
	img     *image
	err     error
}

// get returns what is known of the image that ref's layer belongs to.
func (s *images) get(ctx context.Context, ref LayerRef) (*image, error) {
	key := imageKey{ref.Image, ref.Manifest, ref.Index}
	s.mu.Lock()
	if img := s.cached(key, time.Now()); img != nil {
		s.mu.Unlock()
		return img, nil
	}
	f := s.flights[key]
	if f == nil {
		f = s.start(ctx, key, ref)
	}
	f.waiters++
	s.mu.Unlock()

	select {
	case <-f.done:
		return f.img, f.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.waiters--; f.waiters == 0 {
		f.cancel()
		if s.flights[key] == f {
			delete(s.flights, key)
		}
	}
	return nil, ctx.Err()
}

// start begins a lookup, which outlives the caller's context for as long as
// others wait. The caller holds s.mu.
func (s *images) start(ctx context.Context, key imageKey, ref LayerRef) *flight {
	fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
	f := &flight{cancel: cancel, done: make(chan struct{})}
	s.flights[key] = f
	s.inflight.Go(func() {
		defer cancel()
		f.err = contained(func() (err error) {
			f.img, err = s.lookup(fctx, ref)
			return err
		})
		s.mu.Lock()
		if s.flights[key] == f {
			delete(s.flights, key)
		}
		if f.err == nil {
			s.put(key, f.img)
		}
		s.mu.Unlock()
		close(f.done)
	})
	return f
}

// cached returns a cached image and makes it the most recently used. The
// caller holds s.mu.
func (s *images) cached(key imageKey, now time.Time) *image {
	s.cache = slices.DeleteFunc(s.cache, func(e imageEntry) bool {
		p := e.img.pull.Load() // what is unpacked ahead can be had from this image only
		return now.After(e.img.expire) && (p == nil || p.over())
	})
	i := slices.IndexFunc(s.cache, func(e imageEntry) bool { return e.key == key })
	if i < 0 {
		return nil
	}
	e := s.cache[i]
	s.cache = append(slices.Delete(s.cache, i, i+1), e)
	return e.img
}

// put caches an image, at the cost of the least recently used. The caller holds s.mu.
func (s *images) put(key imageKey, img *image) {
	s.cache = append(s.cache, imageEntry{key, img})
	var held int64
	for _, e := range s.cache {
		held += e.img.size()
	}
	for len(s.cache) > 1 && (held > maxCachedZTOCs || len(s.cache) > maxCachedImages) {
		held -= s.cache[0].img.size()
		if p := s.cache[0].img.pull.Load(); p != nil {
			p.end()
		}
		s.cache = slices.Delete(s.cache, 0, 1)
	}
}

// removed ends the unpacking ahead of ref's image: who removes a snapshot of it is hardly about to pull the rest, and
// if so, its layers are unpacked when their turn has come.
func (s *images) removed(ref LayerRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := imageKey{ref.Image, ref.Manifest, ref.Index}
	for _, e := range s.cache {
		if p := e.img.pull.Load(); e.key == key && p != nil {
			p.end()
		}
	}
}

// close ends the lookups under way.
func (s *images) close() {
	s.mu.Lock()
	for _, f := range s.flights {
		f.cancel()
	}
	s.mu.Unlock()
	s.inflight.Wait()
}

// lookup asks the registry.
func (s *images) lookup(ctx context.Context, ref LayerRef) (*image, error) {
	repo, err := s.repos(ref.Image)
	if err != nil {
		return nil, err
	}
	img := &image{repo: repo, ahead: make(map[digest.Digest]*content)}
	manifest, raw, err := fetchManifest(ctx, repo.remote, ref.Manifest)
	if err != nil {
		return nil, fmt.Errorf("fetch manifest %s of %q: %w", ref.Manifest, ref.Image, err)
	}
	img.layers = manifest.Layers
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := contained(func() error { return img.readConfig(gctx, manifest.Config) }); err != nil {
			return fmt.Errorf("fetch config %s of %q: %w", manifest.Config.Digest, ref.Image, err)
		}
		return nil
	})
	g.Go(func() error { return contained(func() error { return s.findIndex(gctx, img, raw, ref) }) })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	img.expire = time.Now().Add(imageTTL)
	if img.index == nil {
		img.expire = time.Now().Add(noIndexTTL)
	}
	return img, nil
}

// findIndex looks for the image's index and begins to fetch the zTOCs of the layers
// from ref's on: those below it exist already.
func (s *images) findIndex(ctx context.Context, img *image, manifest []byte, ref LayerRef) error {
	find := s.find
	find.Digest, find.Manifest = ref.Index, manifest
	find.Bound, find.MaxSize = s.policy.BoundIndex, s.policy.MaxIndexSize
	start := time.Now()
	x, desc, err := index.Find(ctx, img.repo.remote, ref.Manifest, find)
	if errors.Is(err, index.ErrNone) || ruledOut(err) {
		img.none = s.notFound(err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("find SOCI index of %q: %w", ref.Image, err)
	}
	s.observe(OpIndexFetch, desc.Digest, time.Since(start))
	s.log.Info("fetching SOCI artifacts using index descriptor", "digest", desc.Digest.String(), "image", ref.Image)
	img.index = x
	s.fetchAhead(img, ref.Layer)
	return nil
}

// notFound adds to err, which says that there is no index, where it was not
// looked for, and what makes the daemon look there.
func (s *images) notFound(err error) error {
	if ruledOut(err) {
		return err
	}
	for v, on := range []bool{index.V1: s.find.V1, index.V2: s.find.V2} {
		if v > 0 && !on {
			err = fmt.Errorf("%w; v%[2]d discovery is off, config.toml turns it on: [pull_modes.soci_v%[2]d] enable = true", err, v)
		}
	}
	return err
}

// readConfig learns the image's diffIDs from its config.
func (i *image) readConfig(ctx context.Context, desc ocispec.Descriptor) error {
	p, err := index.ReadAll(ctx, i.repo.remote, desc, maxConfigSize)
	if err != nil {
		return err
	}
	var c struct {
		RootFS ocispec.RootFS `json:"rootfs"`
	}
	if err := json.Unmarshal(p, &c); err != nil {
		return err
	}
	if len(c.RootFS.DiffIDs) != len(i.layers) {
		return fmt.Errorf("%d diffIDs for %d layers", len(c.RootFS.DiffIDs), len(i.layers))
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return fmt.Errorf("diffID %q: %w", d, err)
		}
	}
	i.diffs = c.RootFS.DiffIDs
	i.chains = identity.ChainIDs(slices.Clone(i.diffs))
	return nil
}

// find returns which of the image's layers ref is: the one whose digest, diffID
// and chain ID agree with the labels.
func (i *image) find(ref LayerRef) (int, error) {
	for n, l := range i.layers {
		if l.Digest == ref.Layer && i.chains[n].String() == ref.Target {
			if ref.DiffID != "" && ref.DiffID != i.diffs[n] {
				return 0, fmt.Errorf("diffID of layer %s is %s in the image, %s in the labels", l.Digest, i.diffs[n], ref.DiffID)
			}
			return n, nil
		}
	}
	return 0, fmt.Errorf("manifest %s has no layer %s with chain ID %s", ref.Manifest, ref.Layer, ref.Target)
}

// fetchManifest fetches and decodes an image manifest.
func fetchManifest(ctx context.Context, remote index.Remote, dgst digest.Digest) (*ocispec.Manifest, []byte, error) {
	desc, err := remote.Resolve(ctx, dgst.String())
	if err != nil {
		return nil, nil, err
	}
	if desc.Digest != dgst {
		return nil, nil, fmt.Errorf("resolved to %s", desc.Digest)
	}
	p, err := index.ReadAll(ctx, remote, desc, maxManifestSize)
	if err != nil {
		return nil, nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(p, &m); err != nil {
		return nil, nil, err
	}
	if len(m.Layers) > maxLayers {
		return nil, nil, fmt.Errorf("%d layers are more than %d", len(m.Layers), maxLayers)
	}
	for _, l := range m.Layers {
		if err := l.Digest.Validate(); err != nil {
			return nil, nil, fmt.Errorf("layer %q: %w", l.Digest, err)
		}
		if l.Size < 0 {
			return nil, nil, fmt.Errorf("layer %s: size %d", l.Digest, l.Size)
		}
	}
	return &m, p, nil
}

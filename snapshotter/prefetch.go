// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/ztoc"
)

// OpPrefetch is the fetching of what a start is known to read, of a layer.
const OpPrefetch Operation = "prefetch"

// Bounds of what is prefetched, all of it hints of whoever made an image.
const (
	maxPrefetches = 32       // layers at once
	maxHintZTOC   = 32 << 20 // bytes of a zTOC that is fetched for the numbers of its spans, one at a time
)

// hints bounds what is done at once for what is only a hint.
type hints struct {
	layers *semaphore.Weighted // that are prefetched
	ztocs  *semaphore.Weighted // that are fetched for the numbers of their spans
}

func newHints() hints {
	return hints{layers: semaphore.NewWeighted(maxPrefetches), ztocs: semaphore.NewWeighted(1)}
}

// errNoProfile says that nothing is known of what starts read of a layer.
var errNoProfile = errors.New("no profile")

// prefetch begins to fetch what starts are known to read of the layer of p, which l serves,
// in the order in which they do. Nobody waits for it.
func (s *Snapshotter) prefetch(p *preparation, l *layer) {
	data, zinfo := l.spans()
	if data == nil {
		return
	}
	manifest, img, layer := p.ref.Manifest, p.img, p.layer.Digest
	s.tasks.run(func(ctx context.Context) {
		if s.hints.layers.Acquire(ctx, 1) != nil {
			return
		}
		defer s.hints.layers.Release(1)
		start := time.Now()
		f, from, err := s.profile(ctx, img, manifest, layer, zinfo)
		if err == nil {
			err = data.Prefetch(ctx, f.Ranges)
		}
		switch {
		case errors.Is(err, errNoProfile), errors.Is(err, span.ErrClosed), ctx.Err() != nil:
		case err != nil:
			s.opts.Log.Warn("prefetch", "layer", layer.String(), "error", err)
		default:
			s.opts.Log.Info("prefetched what starts read", "layer", layer.String(), "profile", from,
				"bytes", f.Len(), "ranges", len(f.Ranges), "dur", time.Since(start))
			s.opts.OnOperation(OpPrefetch, layer, time.Since(start))
		}
	})
}

// The sources of profiles, in the order in which they are asked.
const (
	fromNode     = "node"     // starts of the same image on this node
	fromIndex    = "index"    // the profile that the image's index lists
	fromPrefetch = "prefetch" // the prefetch artifact that it lists
	fromOther    = "other"    // starts of another image with the layer, on this node
)

// profile returns what is known of what starts of an image read of a layer, and from where.
func (s *Snapshotter) profile(ctx context.Context, img *image, manifest, layer digest.Digest, zinfo *ztoc.ZInfo) (*index.Profile, string, error) {
	p, exact, err := s.recorder.profiles.Load(layer, manifest)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.opts.Log.Warn("profile is not usable", "error", err)
	}
	other := p
	switch {
	case p != nil && p.Size != zinfo.UncompressedSize:
		other = nil
	case p != nil && exact:
		return p, fromNode, nil
	}
	if d, ok := img.index.Profile(layer); ok {
		p, err := s.listedProfile(ctx, img, layer, d, zinfo)
		if err == nil {
			return p, fromIndex, nil
		}
		s.opts.Log.Warn("profile is not usable", "layer", layer.String(), "error", err)
	}
	if d, ok := img.index.Prefetch(layer); ok {
		p, err := s.listedPrefetch(ctx, img, layer, d, zinfo)
		if err == nil {
			return p, fromPrefetch, nil
		}
		s.opts.Log.Warn("prefetch artifact is not usable", "layer", layer.String(), "error", err)
	}
	if other != nil {
		return other, fromOther, nil
	}
	return nil, "", errNoProfile
}

// listedProfile returns the profile desc of a layer.
func (s *Snapshotter) listedProfile(ctx context.Context, img *image, layer digest.Digest, desc ocispec.Descriptor, zinfo *ztoc.ZInfo) (*index.Profile, error) {
	b, err := s.images.artifact(ctx, img, layer, desc)
	if err != nil {
		return nil, err
	}
	p, err := index.UnmarshalProfile(b)
	if err != nil {
		return nil, fmt.Errorf("profile %s: %w", desc.Digest, err)
	}
	if p.Size != zinfo.UncompressedSize {
		return nil, fmt.Errorf("profile %s is of a layer of %d bytes, not %d", desc.Digest, p.Size, zinfo.UncompressedSize)
	}
	return p, nil
}

// listedPrefetch returns what the prefetch artifact desc of a layer lists. It numbers the spans of the
// layer's zTOC 0.9, which is fetched if the layer is served with another.
func (s *Snapshotter) listedPrefetch(ctx context.Context, img *image, layer digest.Digest, desc ocispec.Descriptor, zinfo *ztoc.ZInfo) (*index.Profile, error) {
	b, err := s.images.artifact(ctx, img, layer, desc)
	if err != nil {
		return nil, err
	}
	f, err := index.UnmarshalPrefetch(b)
	if err != nil {
		return nil, fmt.Errorf("prefetch artifact %s: %w", desc.Digest, err)
	}
	if _, ok := img.index.Compact(layer); !ok {
		return f.Profile(zinfo), nil
	}
	d, ok := img.index.ZTOC(layer)
	if !ok {
		return nil, fmt.Errorf("prefetch artifact %s: the layer has no zTOC 0.9", desc.Digest)
	}
	return s.numbered(ctx, img, layer, d, f, zinfo.UncompressedSize)
}

// numbered returns what the spans of f hold, which are those of the zTOC desc of a layer of size bytes.
func (s *Snapshotter) numbered(ctx context.Context, img *image, layer digest.Digest, desc ocispec.Descriptor, f *index.Prefetch, size int64) (*index.Profile, error) {
	if desc.Size > maxHintZTOC {
		return nil, fmt.Errorf("zTOC %s: %d bytes are more than %d, too many for what is only a hint", desc.Digest, desc.Size, maxHintZTOC)
	}
	if err := s.hints.ztocs.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer s.hints.ztocs.Release(1)
	b, err := s.images.artifact(ctx, img, layer, desc)
	if err != nil {
		return nil, err
	}
	z, err := ztoc.Open(b)
	if err != nil {
		return nil, fmt.Errorf("zTOC %s: %w", desc.Digest, err)
	}
	if have := z.ZInfo().UncompressedSize; have != size {
		return nil, fmt.Errorf("zTOC %s is of a layer of %d bytes, not %d", desc.Digest, have, size)
	}
	return f.Profile(z.ZInfo()), nil
}

// record begins to record what a container reads whose snapshot is key, on top of parent.
func (s *Snapshotter) record(ctx context.Context, key, parent string) {
	chain, err := s.chain(ctx, parent)
	if err != nil {
		s.opts.Log.Warn("record what a start reads", "parent", parent, "error", err)
		return
	}
	var manifest digest.Digest // of the highest layer that tells
	names := make([]string, len(chain))
	for i, info := range chain {
		names[i] = info.Name
		if ref, err := parseLabels(info.Labels); err == nil && manifest == "" {
			manifest = ref.Manifest
		}
	}
	var layers []recorded
	for _, r := range s.remotes(names) {
		if l, digest := r.served(); l != nil {
			if data, _ := l.spans(); data != nil {
				layers = append(layers, recorded{digest: digest, data: data})
			}
		}
	}
	s.recorder.start(key, manifest, layers)
}

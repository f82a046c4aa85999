// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/seekoci/seekoci/index"
)

// content is content of an image that is fetched before it is asked for.
type content struct {
	layer digest.Digest
	desc  ocispec.Descriptor
	done  chan struct{}
	p     []byte // once done is closed; nil if it could not be had
}

// fetchAhead begins to fetch the zTOCs of the layers from first on, all at once and
// while containerd and its client go on.
func (s *images) fetchAhead(img *image, first digest.Digest) {
	n := max(0, slices.IndexFunc(img.layers, func(d ocispec.Descriptor) bool { return d.Digest == first }))
	var list []*content
	for _, l := range img.layers[n:] {
		if z := ztocs(img.index, l.Digest); len(z) > 0 {
			if c := img.expect(l.Digest, z[0]); c != nil {
				list = append(list, c)
			}
		}
	}
	if len(list) == 0 {
		return
	}
	s.tasks.run(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, s.timeout)
		defer cancel()
		var g errgroup.Group
		g.SetLimit(s.workers)
		for _, c := range list {
			g.Go(func() error {
				defer close(c.done)
				// What cannot be fetched ahead is fetched, and its error reported, when its layer is prepared.
				c.p, _ = s.fetchZTOC(ctx, img.repo, c.layer, c.desc)
				return nil
			})
		}
		_ = g.Wait() // of nothing that fails
	})
}

// expect adds content that is to be fetched ahead: nil if it is there, or if there
// is too much of it.
func (i *image) expect(layer digest.Digest, desc ocispec.Descriptor) *content {
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.ahead[desc.Digest]; ok || desc.Size < 0 || desc.Size > maxCachedZTOCs-i.held {
		return nil
	}
	c := &content{layer: layer, desc: desc, done: make(chan struct{})}
	i.ahead[desc.Digest] = c
	i.held += desc.Size
	return c
}

// take returns what was fetched ahead, waiting for it to come. It is nil if the caller has to
// fetch it, or if ctx is over.
func (i *image) take(ctx context.Context, d digest.Digest) []byte {
	i.mu.Lock()
	c := i.ahead[d]
	if c != nil {
		delete(i.ahead, d)
		i.held -= c.desc.Size
	}
	i.mu.Unlock()
	if c == nil {
		return nil
	}
	select {
	case <-c.done:
		return c.p
	case <-ctx.Done():
		return nil
	}
}

// drop forgets what was fetched ahead: the image's last layer is being prepared.
func (i *image) drop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	clear(i.ahead)
	i.held = 0
}

// size is the number of bytes fetched ahead, or on their way.
func (i *image) size() int64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.held
}

// ztoc returns the zTOC desc of a layer of img.
func (s *images) ztoc(ctx context.Context, img *image, layer digest.Digest, desc ocispec.Descriptor) ([]byte, error) {
	if p := img.take(ctx, desc.Digest); p != nil {
		return p, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return s.fetchZTOC(ctx, img.repo, layer, desc)
}

// ztocs returns the zTOCs of a layer, the one to be preferred first: the compact one,
// which is smaller and has finer spans.
func ztocs(x *index.Index, layer digest.Digest) []ocispec.Descriptor {
	var list []ocispec.Descriptor
	if d, ok := x.Compact(layer); ok {
		list = append(list, d)
	}
	if d, ok := x.ZTOC(layer); ok {
		list = append(list, d)
	}
	return list
}

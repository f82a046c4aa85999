// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"fmt"
	"slices"
	"time"

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

// fetchAhead begins to fetch the zTOCs of the layers from first on, and what is known of what
// starts read of them, all at once and while containerd and its client go on.
func (s *images) fetchAhead(img *image, first digest.Digest) {
	n := max(0, slices.IndexFunc(img.layers, func(d ocispec.Descriptor) bool { return d.Digest == first }))
	var list []*content
	for _, l := range img.layers[n:] {
		for _, d := range wanted(img.index, l.Digest) {
			if isZTOC(d) && d.Size > s.policy.zTOCSize() {
				continue
			}
			if c := img.expect(l.Digest, d); c != nil {
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
				_ = contained(func() (err error) {
					c.p, err = s.fetch(ctx, img.repo, c.layer, c.desc)
					return err
				})
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

// drop forgets the zTOCs fetched ahead: the image's last layer is being prepared.
func (i *image) drop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for d, c := range i.ahead {
		if isZTOC(c.desc) {
			delete(i.ahead, d)
			i.held -= c.desc.Size
		}
	}
}

// size is the number of bytes fetched ahead, or on their way.
func (i *image) size() int64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.held
}

// artifact returns the artifact desc, a zTOC for one, of a layer of img.
func (s *images) artifact(ctx context.Context, img *image, layer digest.Digest, desc ocispec.Descriptor) ([]byte, error) {
	if p := img.take(ctx, desc.Digest); p != nil {
		return p, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return s.fetch(ctx, img.repo, layer, desc)
}

// fetch fetches an artifact of a layer.
func (s *images) fetch(ctx context.Context, repo repository, layer digest.Digest, desc ocispec.Descriptor) ([]byte, error) {
	start := time.Now()
	what, limit := "zTOC", s.policy.zTOCSize()
	switch desc.MediaType {
	case index.MediaTypeProfile:
		what, limit = "profile", index.MaxProfileSize
	case index.MediaTypePrefetch:
		what, limit = "prefetch artifact", index.MaxPrefetchSize
	}
	p, err := index.ReadAll(ctx, repo.remote, desc, limit)
	if err != nil {
		return nil, fmt.Errorf("fetch %s %s of layer %s: %w", what, desc.Digest, layer, err)
	}
	if isZTOC(desc) {
		s.observe(OpZTOCFetch, layer, time.Since(start))
	}
	return p, nil
}

// isZTOC reports whether an index lists d as a zTOC, of either format.
func isZTOC(d ocispec.Descriptor) bool {
	return d.MediaType == index.MediaTypeZTOC || d.MediaType == index.MediaTypeCompact
}

// wanted returns the artifacts of a layer that its Prepare will most likely ask for.
func wanted(x *index.Index, layer digest.Digest) []ocispec.Descriptor {
	list := ztocs(x, layer)
	if len(list) == 0 {
		return nil
	}
	list = list[:1]
	if d, ok := x.Profile(layer); ok {
		list = append(list, d)
	} else if d, ok := x.Prefetch(layer); ok {
		list = append(list, d)
	}
	return list
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

// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/registry"
)

// blob is one layer in a registry. *registry.Blob satisfies it.
type blob interface {
	span.Source
	Open(ctx context.Context) (io.ReadCloser, error)
}

// repository is where an image, its index and its layers are.
type repository struct {
	remote index.Remote
	blob   func(ocispec.Descriptor) blob
}

// repositories returns the repository of an image reference. It makes no request.
type repositories func(image string) (repository, error)

// registryRepositories returns the repositories of a registry client.
func registryRepositories(c *registry.Client) repositories {
	return func(image string) (repository, error) {
		r, err := c.Repository(image)
		if err != nil {
			return repository{}, fmt.Errorf("repository of image %q: %w", image, err)
		}
		return repository{r, func(d ocispec.Descriptor) blob { return r.Blob(d) }}, nil
	}
}

// layerSource reads a layer from whichever of its images' repositories answers.
// A layer may outlive the image it was first pulled with; the repositories of
// the others are tried then.
type layerSource struct {
	size int64

	mu    sync.Mutex
	names []string
	blobs []blob // not changed in place: readers hold on to the slice
}

// Size is the size of the compressed layer in bytes.
func (s *layerSource) Size() int64 { return s.size }

// ReadAt fills p with the compressed bytes at off, all of them or an error.
func (s *layerSource) ReadAt(ctx context.Context, p []byte, off int64) error {
	s.mu.Lock()
	blobs := s.blobs
	s.mu.Unlock()
	var errs []error
	for i, b := range blobs {
		err := b.ReadAt(ctx, p, off)
		if err == nil {
			if i > 0 {
				s.prefer(b)
			}
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return errors.New("layer has no repository")
	}
	return errors.Join(errs...)
}

// add makes image's repository the first to be asked.
func (s *layerSource) add(image string, b blob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names, blobs := []string{image}, []blob{b}
	for i, n := range s.names {
		if n != image && len(names) < maxImages {
			names, blobs = append(names, n), append(blobs, s.blobs[i])
		}
	}
	s.names, s.blobs = names, blobs
}

// prefer moves b to the front.
func (s *layerSource) prefer(b blob) {
	s.mu.Lock()
	name, ok := "", false
	for i := range s.blobs {
		if s.blobs[i] == b {
			name, ok = s.names[i], true
		}
	}
	s.mu.Unlock()
	if ok {
		s.add(name, b)
	}
}

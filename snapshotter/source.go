// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/registry"
)

// blob is one layer in a registry. *registry.Blob satisfies it.
type blob interface {
	Open(ctx context.Context) (io.ReadCloser, error)
	OpenRange(ctx context.Context, off, n int64) (io.ReadCloser, error)
	Size() int64
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

// Open streams the n compressed bytes at off, all of them or an error. Where a
// repository fails, the next one goes on.
func (s *layerSource) Open(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	s.mu.Lock()
	r := &sourceReader{ctx: ctx, s: s, blobs: s.blobs, off: off, end: off + n}
	s.mu.Unlock()
	if err := r.next(errNoRepository); err != nil {
		return nil, err
	}
	return r, nil
}

// errNoRepository says that there is nobody to ask.
var errNoRepository = errors.New("layer has no repository")

// sourceReader streams a range of a layer from one repository after the other.
type sourceReader struct {
	ctx   context.Context // of Open
	s     *layerSource
	blobs []blob // to be asked yet
	off   int64  // of the next byte
	end   int64
	body  io.ReadCloser
	errs  []error // of those that were asked
	err   error   // of every further Read
}

// next goes on with the next repository that answers. err is what to return if
// nobody has been asked.
func (r *sourceReader) next(err error) error {
	for len(r.blobs) > 0 && r.ctx.Err() == nil {
		b := r.blobs[0]
		r.blobs = r.blobs[1:]
		body, e := b.OpenRange(r.ctx, r.off, r.end-r.off)
		if e == nil {
			r.body = body
			if len(r.errs) > 0 {
				r.s.prefer(b)
			}
			return nil
		}
		r.errs = append(r.errs, e)
	}
	if r.ctx.Err() != nil {
		return r.ctx.Err()
	}
	if len(r.errs) == 0 {
		return err
	}
	return errors.Join(r.errs...)
}

// Read implements io.Reader.
func (r *sourceReader) Read(p []byte) (int, error) {
	for r.err == nil {
		if r.off == r.end {
			r.err = io.EOF
			break
		}
		if len(p) == 0 {
			return 0, nil
		}
		n, err := r.body.Read(p[:min(int64(len(p)), r.end-r.off)])
		r.off += int64(n)
		if err != nil && r.off < r.end {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			_ = r.body.Close() // it has failed already
			r.errs = append(r.errs, err)
			r.err = r.next(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, r.err
}

// Close ends the stream.
func (r *sourceReader) Close() error {
	if r.err == nil {
		r.err = os.ErrClosed
	}
	return r.body.Close()
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

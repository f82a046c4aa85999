// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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
//
// Where all that answer ignore ranges, the layer is downloaded once, to a file, and
// served from there. The bytes are verified as those of ranges are: span by span, by
// their reader. It is to be closed.
type layerSource struct {
	size  int64
	dir   string        // of files of downloads; "" means that ranges are asked for, come what may
	grace time.Duration // of a download that nobody reads from; 0 means downloadGrace and downloadKept

	downloads sync.WaitGroup
	unranged  atomic.Bool // it was downloaded, as ranges are not to be had; changed with gives and refuses
	changed   func()      // told when that changes; nil means nobody. It must not wait

	mu     sync.Mutex // guards what follows
	names  []string
	blobs  []blob    // not changed in place: readers hold on to the slice
	whole  *download // nil if there is none
	sent   []sending // the latest last
	reads  uint64    // readers so far
	closed bool
}

// Size is the size of the compressed layer in bytes.
func (s *layerSource) Size() int64 { return s.size }

// Open streams the n compressed bytes at off, all of them or an error. Where a
// repository fails, the next one goes on.
func (s *layerSource) Open(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if off < 0 || n < 0 || n > s.size-off {
		return nil, fmt.Errorf("open %d bytes at %d of a layer of %d bytes: %w", n, off, s.size, registry.ErrRange)
	}
	r := &sourceReader{ctx: ctx, s: s, blobs: s.asked(), off: off, end: off + n}
	if d := s.join(ctx, off); d != nil {
		r.body = d
		s.note(r, d.d.by)
		// Should it fail, whose it is has been asked.
		r.blobs = slices.DeleteFunc(slices.Clone(r.blobs), func(b blob) bool { return b == d.d.from })
		return r, nil
	}
	if err := r.next(errNoRepository); err != nil {
		return nil, err
	}
	return r, nil
}

// asked returns who is to be asked, in order.
func (s *layerSource) asked() []blob {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blobs
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
	read  uint64 // number of the reader, 0 before anybody answers
	body  io.ReadCloser
	errs  []error // of those that were asked
	err   error   // of every further Read
	plain bool    // files of downloads do not work: only ranges are asked for
}

// next goes on with the next repository that answers. err is what to return if
// nobody has been asked.
func (r *sourceReader) next(err error) error {
	var all *offer // of the first repository that ignores ranges
	for len(r.blobs) > 0 && r.ctx.Err() == nil {
		b := r.blobs[0]
		r.blobs = r.blobs[1:]
		body, o, e := r.ask(b)
		switch {
		case e != nil:
			r.errs = append(r.errs, e)
		case o != nil && all == nil:
			all = o
		case o != nil:
			o.close()
		default:
			r.body = body
			r.s.note(r, &sender{from: b})
			if len(r.errs) > 0 || all != nil {
				r.s.prefer(b)
			}
			all.close()
			return nil
		}
	}
	switch {
	case r.ctx.Err() != nil:
		all.close()
		return r.ctx.Err()
	case all != nil:
		return r.adopt(all)
	case len(r.errs) == 0:
		return err
	}
	return errors.Join(r.errs...)
}

// adopt has r read from the download that an offer becomes. If there can be none, for
// the sake of the disk, ranges are asked for.
func (r *sourceReader) adopt(all *offer) error {
	d, err := r.s.adopt(r.ctx, all, r.off)
	switch {
	case err == nil:
		r.body = d
		r.s.note(r, d.d.by)
		return nil
	case errors.Is(err, errFile):
		return r.withoutFile(err)
	}
	return err
}

// withoutFile asks everybody for the range, however much a registry sends for it.
func (r *sourceReader) withoutFile(err error) error {
	r.plain, r.blobs = true, r.s.asked()
	return r.next(err)
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
			err = noEOF(err)
			_ = r.body.Close() // it has failed already
			r.body = nil
			r.errs = append(r.errs, err)
			if errors.Is(err, errFile) && !r.plain {
				r.err = r.withoutFile(err)
			} else {
				r.err = r.next(err)
			}
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
	if r.body == nil {
		return nil
	}
	body := r.body
	r.body = nil
	return body.Close()
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

// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"
)

// maxBuffered is the size of a blob that is kept in memory so that its upload
// can be tried again, in bytes. Larger ones are tried again if they can seek.
const maxBuffered = 8 << 20

// Push uploads the manifest or blob of desc; a blob that is there already is
// left alone. A manifest with a subject becomes its referrer, also where the
// registry has no referrers API. An upload that fails is tried again if content
// is small or an io.Seeker.
func (r *Repository) Push(ctx context.Context, desc ocispec.Descriptor, content io.Reader) error {
	err := checkDescriptor(desc)
	if err == nil && isManifest(desc) {
		err = r.pushManifest(ctx, desc, content)
	} else if err == nil {
		err = r.pushBlob(ctx, desc, content)
	}
	if err != nil {
		return fmt.Errorf("push %s to %s: %w", desc.Digest, r.Name(), err)
	}
	return nil
}

// pushManifest does not ask whether the manifest is there: it may be, and yet
// be missing from the list under the fallback tag.
func (r *Repository) pushManifest(ctx context.Context, desc ocispec.Descriptor, content io.Reader) error {
	p, err := readVerified(content, desc)
	if err != nil {
		return err
	}
	return r.do(ctx, http.MethodPut, "manifests", desc.Digest.String(), func(ctx context.Context, rr *remote.Repository) error {
		return rr.Manifests().Push(ctx, desc, bytes.NewReader(p))
	})
}

func (r *Repository) pushBlob(ctx context.Context, desc ocispec.Descriptor, content io.Reader) error {
	if found, err := r.Exists(ctx, desc); err != nil || found {
		return err
	}
	seeker, ok := content.(io.Seeker)
	if !ok && desc.Size <= maxBuffered {
		p, err := readVerified(content, desc)
		if err != nil {
			return err
		}
		rd := bytes.NewReader(p)
		content, seeker, ok = rd, rd, true
	}
	var start int64
	if ok {
		at, err := seeker.Seek(0, io.SeekCurrent)
		if ok = err == nil; ok {
			start = at
		}
	}
	b := r.client.backoff()
	for {
		body := &upload{r: io.LimitReader(content, desc.Size)}
		err := r.once(ctx, http.MethodPost, "blobs/uploads", "", func(ctx context.Context, rr *remote.Repository) error {
			return rr.Blobs().Push(ctx, desc, body)
		})
		body.retire()
		if err == nil || !ok {
			return ended(ctx, err)
		}
		if werr := b.next(ctx, err); werr != nil {
			return werr
		}
		if _, serr := seeker.Seek(start, io.SeekStart); serr != nil {
			return errors.Join(err, serr)
		}
	}
}

// upload is the body of one attempt. The transport may go on reading a body
// after the attempt has failed; once retired there is nothing left to read.
type upload struct {
	mu   sync.Mutex // guards what follows, and what r reads from
	r    io.Reader
	done bool
}

// Read implements io.Reader.
func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.done {
		return 0, io.ErrClosedPipe
	}
	return u.r.Read(p)
}

func (u *upload) retire() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.done = true
}

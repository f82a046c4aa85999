// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	_ "crypto/sha256" // for go-digest
	_ "crypto/sha512" // for go-digest
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxManifestSize bounds image manifests, image indexes and image configs, in bytes.
const MaxManifestSize = 8 << 20

// Fetcher is the part of Store and of Remote that reading needs. Its errors name the content.
type Fetcher interface {
	Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
}

// ReadAll returns the content of desc, at most limit bytes of it, verified. A size of 0
// stands for content of unknown size. Errors match ErrDigest if the content is not desc's, ErrSize
// if desc says that there is more than limit.
func ReadAll(ctx context.Context, from Fetcher, desc ocispec.Descriptor, limit int64) (p []byte, err error) {
	if err := validate(desc); err != nil {
		return nil, err
	}
	if desc.Size > limit {
		return nil, fmt.Errorf("fetch %s: %d bytes are more than %d: %w", desc.Digest, desc.Size, limit, ErrSize)
	}
	rc, err := from.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer func() { err = closed(rc, err) }()
	r := newVerifier(ctx, rc, desc)
	if desc.Size == 0 {
		r.unknown, r.desc.Size = true, limit
	}
	if p, err = r.readAll(); err == nil {
		err = r.verify()
	}
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", desc.Digest, err)
	}
	return p, nil
}

// firstRead is how much memory the content of a descriptor gets before any of it is there.
const firstRead = 64 << 10

// readAll reads on to the end. The buffer grows with what arrives, not with what the
// descriptor claims, and not beyond: a zTOC is used where it was read to.
func (v *verifier) readAll() ([]byte, error) {
	most := int(v.desc.Size) + 1
	p := make([]byte, 0, min(firstRead, most))
	for {
		if len(p) == cap(p) {
			p = append(make([]byte, 0, min(2*cap(p), most)), p...)
		}
		n, err := v.Read(p[len(p):cap(p)])
		p = p[:len(p)+n]
		if err == io.EOF {
			return p, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// closed closes c after an operation that ended with err.
func closed(c io.Closer, err error) error {
	if cerr := c.Close(); err == nil && cerr != nil {
		return fmt.Errorf("close: %w", cerr)
	}
	return err
}

// verifier reads content and learns whether it is what desc promises. It ends
// one byte behind the promised size at the latest.
type verifier struct {
	stopped  func() error // of the operation that reads: its context's Err
	r        io.Reader
	desc     ocispec.Descriptor
	unknown  bool            // the size of desc is only what it is at most
	hash     digest.Verifier // nil if the caller looks at the digest
	n        int64           // bytes read
	progress func(int64)     // told of each read; may be nil
}

func newVerifier(ctx context.Context, r io.Reader, desc ocispec.Descriptor) *verifier {
	return &verifier{stopped: ctx.Err, r: r, desc: desc, hash: desc.Digest.Verifier()}
}

// Read reads on and hashes.
func (v *verifier) Read(p []byte) (int, error) {
	if err := v.stopped(); err != nil {
		return 0, err
	}
	left := v.desc.Size + 1 - v.n
	if left <= 0 {
		return 0, fmt.Errorf("more than %d bytes: %w", v.desc.Size, ErrDigest)
	}
	n, err := v.r.Read(p[:min(int64(len(p)), left)])
	v.n += int64(n)
	if v.hash != nil {
		_, _ = v.hash.Write(p[:n]) // a hash does not fail
	}
	if v.progress != nil && n > 0 {
		v.progress(int64(n))
	}
	return n, err
}

var errDiffers = fmt.Errorf("digest differs: %w", ErrDigest)

// verify says whether what was read up to the end is the content of desc.
func (v *verifier) verify() error {
	switch {
	case v.n < v.desc.Size && !v.unknown:
		return fmt.Errorf("%d of %d bytes: %w", v.n, v.desc.Size, ErrDigest)
	case v.n > v.desc.Size:
		return fmt.Errorf("more than %d bytes: %w", v.desc.Size, ErrDigest)
	case v.hash != nil && !v.hash.Verified():
		return errDiffers
	}
	return nil
}

// drain reads what is left and verifies all of it.
func (v *verifier) drain() error {
	if _, err := io.Copy(io.Discard, v); err != nil {
		return err
	}
	return v.verify()
}

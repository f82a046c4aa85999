// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"
)

// ingestDir is where blobs of a layout are written, the directory of oras.
const ingestDir = "ingest"

// Layout is a content store in the form of an OCI image layout directory, the
// one that --content-store soci keeps at <root>/content. It is safe for
// concurrent use.
type Layout struct {
	dir string
	st  *oci.Store
}

// OpenLayout opens the OCI layout in dir and makes it if it is not there.
func OpenLayout(ctx context.Context, dir string) (*Layout, error) {
	st, err := oci.NewWithContext(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("open content store %s: %w", dir, err)
	}
	st.AutoGC = false // zTOCs may belong to several indexes
	return &Layout{dir: dir, st: st}, nil
}

// Fetch opens the blob of desc; a size of 0 stands for unknown.
func (l *Layout) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if err := checkDigest(desc.Digest); err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	r, err := l.st.Fetch(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("fetch %s from %s: %w", desc.Digest, l.dir, native(err))
	}
	return blobReader{during(ctx, r), r}, nil
}

// Push writes the blob of desc unless it is there. A manifest is entered into
// the layout's index.json.
func (l *Layout) Push(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	if err := l.push(ctx, desc, r); err != nil {
		return fmt.Errorf("push %s to %s: %w", desc.Digest, l.dir, err)
	}
	return nil
}

func (l *Layout) push(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	if err := checkDigest(desc.Digest); err != nil {
		return err
	}
	name := filepath.Join(l.dir, ocispec.ImageBlobsDir, desc.Digest.Algorithm().String(), desc.Digest.Encoded())
	if info, err := os.Stat(name); err != nil || info.Size() != desc.Size {
		if err := l.ingest(name, desc, during(ctx, r)); err != nil {
			return err
		}
	}
	if !isManifest(desc.MediaType) {
		return nil
	}
	plain := ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
	return l.st.Tag(ctx, plain, desc.Digest.String())
}

// ingest writes a blob that is verified before it gets its name.
func (l *Layout) ingest(name string, desc ocispec.Descriptor, r io.Reader) (err error) {
	for _, dir := range []string{filepath.Dir(name), filepath.Join(l.dir, ingestDir)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	f, err := os.CreateTemp(filepath.Join(l.dir, ingestDir), desc.Digest.Encoded()+"_*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	sum := desc.Digest.Algorithm().Digester()
	n, err := io.Copy(io.MultiWriter(f, sum.Hash()), io.LimitReader(r, desc.Size+1))
	switch {
	case err != nil:
		return err
	case n != desc.Size:
		return fmt.Errorf("content has not %d bytes", desc.Size)
	case sum.Digest() != desc.Digest:
		return fmt.Errorf("content has digest %s", sum.Digest())
	}
	if err := f.Chmod(0o444); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// Delete removes a blob.
func (l *Layout) Delete(ctx context.Context, dgst digest.Digest) error {
	if err := checkDigest(dgst); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	desc, err := l.st.Resolve(ctx, dgst.String())
	if err == nil {
		err = l.st.Delete(ctx, desc)
	}
	if err != nil {
		return fmt.Errorf("delete %s from %s: %w", dgst, l.dir, native(err))
	}
	return nil
}

// Blobs walks the digests and sizes of all blobs.
func (l *Layout) Blobs(ctx context.Context) iter.Seq2[ocispec.Descriptor, error] {
	return func(yield func(ocispec.Descriptor, error) bool) {
		entries, err := os.ReadDir(filepath.Join(l.dir, ocispec.ImageBlobsDir, digest.SHA256.String()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			yield(ocispec.Descriptor{}, fmt.Errorf("walk content store: %w", err))
			return
		}
		for _, e := range entries {
			desc, err := describe(e)
			if cerr := ctx.Err(); cerr != nil {
				err = cerr
			}
			if errors.Is(err, errdefs.ErrNotFound) {
				continue
			}
			if err != nil {
				yield(ocispec.Descriptor{}, fmt.Errorf("walk content store %s: %w", l.dir, err))
				return
			}
			if !yield(desc, nil) {
				return
			}
		}
	}
}

// describe returns digest and size of a file of blobs/sha256, or ErrNotFound
// if it is not a blob or not there any more.
func describe(e fs.DirEntry) (ocispec.Descriptor, error) {
	dgst := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
	if dgst.Validate() != nil || !e.Type().IsRegular() {
		return ocispec.Descriptor{}, errdefs.ErrNotFound
	}
	info, err := e.Info()
	if err != nil {
		return ocispec.Descriptor{}, native(err)
	}
	return ocispec.Descriptor{Digest: dgst, Size: info.Size()}, nil
}

// native turns the errors of oras into those of containerd.
func native(err error) error {
	switch {
	case errors.Is(err, errdef.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return errdefs.ErrNotFound
	default:
		return err
	}
}

// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ingestDir is where blobs of a layout are written, the directory of oras.
const ingestDir = "ingest"

// lockPause is how long Layout waits before it asks again for the lock of its index.json.
const lockPause = 5 * time.Millisecond

// Layout is a content store in the form of an OCI image layout directory, the
// one that --content-store soci keeps at <root>/content. It is safe for
// concurrent use, by several processes as well.
type Layout struct {
	dir string
	src *Source // reads it
}

// OpenLayout opens the OCI layout in dir and makes it if it is not there.
func OpenLayout(ctx context.Context, dir string) (*Layout, error) {
	l := &Layout{dir: dir, src: &Source{path: dir}}
	if err := l.make(ctx); err != nil {
		return nil, fmt.Errorf("open content store %s: %w", dir, err)
	}
	return l, nil
}

// make makes what a layout has beside blobs.
func (l *Layout) make(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(l.dir, ocispec.ImageBlobsDir, digest.SHA256.String()), 0o755); err != nil {
		return err
	}
	name := filepath.Join(l.dir, ocispec.ImageLayoutFile)
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	if err := l.update(ctx, func(*ocispec.Index) {}); err != nil {
		return err
	}
	return writeJSON(name, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
}

// update changes the index.json of l. It holds the lock of l meanwhile, so that no
// other process changes it, too, and those who read it see it whole.
func (l *Layout) update(ctx context.Context, change func(*ocispec.Index)) error {
	dir, err := os.Open(l.dir)
	if err != nil {
		return err
	}
	defer dir.Close() // unlocks it
	for {
		err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("lock: %w", err)
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			return fmt.Errorf("lock: %w", ctx.Err())
		}
	}
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{}}
	name := filepath.Join(l.dir, ocispec.ImageIndexFile)
	p, err := os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(p, &idx); err != nil {
			return fmt.Errorf("decode %s: %w", ocispec.ImageIndexFile, err)
		}
	}
	change(&idx)
	return writeJSON(name, idx)
}

// writeJSON writes v to the file name.
func writeJSON(name string, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return WriteFile(name, 0o644, func(w io.Writer) error {
		_, err := w.Write(p)
		return err
	})
}

func (l *Layout) openBlob(desc ocispec.Descriptor) (*file, error) { return l.src.openBlob(desc) }

// Fetch opens the blob of desc; a size of 0 stands for unknown.
func (l *Layout) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return l.src.Fetch(ctx, desc)
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
	name := l.blob(desc.Digest)
	if info, err := os.Stat(name); err != nil || info.Size() != desc.Size {
		if err := l.ingest(name, desc, during(ctx, r)); err != nil {
			return err
		}
	}
	if !isManifest(desc.MediaType) {
		return nil
	}
	plain := ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
	return l.update(ctx, func(idx *ocispec.Index) {
		if !slices.ContainsFunc(idx.Manifests, of(desc.Digest)) {
			idx.Manifests = append(idx.Manifests, plain)
		}
	})
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
	err := l.update(ctx, func(idx *ocispec.Index) { idx.Manifests = slices.DeleteFunc(idx.Manifests, of(dgst)) })
	if err == nil {
		err = os.Remove(l.blob(dgst))
	}
	if err != nil {
		return fmt.Errorf("delete %s from %s: %w", dgst, l.dir, native(err))
	}
	return nil
}

// of returns the test for descriptors of dgst.
func of(dgst digest.Digest) func(ocispec.Descriptor) bool {
	return func(d ocispec.Descriptor) bool { return d.Digest == dgst }
}

// blob is the file of a blob.
func (l *Layout) blob(dgst digest.Digest) string {
	return filepath.Join(l.dir, ocispec.ImageBlobsDir, dgst.Algorithm().String(), dgst.Encoded())
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

// native turns an error about a missing file into that of containerd.
func native(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errdefs.ErrNotFound
	}
	return err
}

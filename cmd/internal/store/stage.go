// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Stage is a content store over a read-only Source: it fetches from both, and
// keeps what is pushed in a directory of its own, until one of its Write
// methods puts an image and all it needs in place. It is safe for concurrent use.
type Stage struct {
	src *Source
	st  *Layout
	dir string
}

// NewStage makes a stage over src in a new directory under base.
func NewStage(ctx context.Context, src *Source, base string) (*Stage, error) {
	dir, err := os.MkdirTemp(base, ".soci-stage-*")
	if err != nil {
		return nil, fmt.Errorf("make staging directory: %w", err)
	}
	st, err := OpenLayout(ctx, dir)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return &Stage{src: src, st: st, dir: dir}, nil
}

// Close removes the staging directory.
func (s *Stage) Close() error {
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove staging directory: %w", err)
	}
	return nil
}

func (s *Stage) openBlob(desc ocispec.Descriptor) (*file, error) {
	f, err := s.st.openBlob(desc)
	if errdefs.IsNotFound(err) {
		return s.src.openBlob(desc)
	}
	return f, err
}

// Fetch opens the blob of desc; a size of 0 stands for unknown.
func (s *Stage) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	f, err := s.openBlob(desc)
	if err != nil {
		return nil, err
	}
	return blobReader{during(ctx, io.NewSectionReader(f, 0, f.size)), f}, nil
}

// Push keeps the blob of desc in the stage.
func (s *Stage) Push(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	return s.st.Push(ctx, desc, r)
}

// Exists reports whether the stage or its source has the blob of desc.
func (s *Stage) Exists(desc ocispec.Descriptor) (bool, error) {
	f, err := s.openBlob(desc)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

// provider shows a stage to containerd's archive and walking code.
type provider struct{ s *Stage }

// blobAt reads a blob until its end or the end of its context.
type blobAt struct {
	*file
	done func() error
}

func (b blobAt) ReadAt(p []byte, off int64) (int, error) {
	if err := b.done(); err != nil {
		return 0, err
	}
	return b.file.ReadAt(p, off)
}

func (p provider) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	f, err := p.s.openBlob(desc)
	if err != nil {
		return nil, err
	}
	return blobAt{f, ctx.Err}, nil
}

func (p provider) Info(_ context.Context, dgst digest.Digest) (content.Info, error) {
	f, err := p.s.openBlob(ocispec.Descriptor{Digest: dgst})
	if err != nil {
		return content.Info{}, err
	}
	return content.Info{Digest: dgst, Size: f.size}, f.Close()
}

// foreign says whether desc is a layer that images may refer to without carrying it.
func (s *Stage) foreign(desc ocispec.Descriptor) bool {
	if !images.IsNonDistributable(desc.MediaType) {
		return false
	}
	ok, err := s.Exists(desc)
	return err == nil && !ok
}

// WriteArchive writes the image root and all it refers to as an OCI archive to
// dest, see [WriteFile].
func (s *Stage) WriteArchive(ctx context.Context, root ocispec.Descriptor, dest string) error {
	return WriteFile(dest, 0o644, func(w io.Writer) error {
		return archive.Export(ctx, provider{s}, w, archive.WithManifest(root), archive.WithSkipDockerManifest(),
			archive.WithBlobFilter(func(d ocispec.Descriptor) bool { return !s.foreign(d) }))
	})
}

// WriteDir writes the image root and all it refers to as an OCI layout to the
// directory dest, which it replaces once the layout is complete.
func (s *Stage) WriteDir(ctx context.Context, root ocispec.Descriptor, dest string) (err error) {
	if err := CheckDir(dest); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write OCI layout %s: %w", dest, err)
		}
	}()
	tmp, err := os.MkdirTemp(filepath.Dir(dest), ".soci-layout-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	out, err := OpenLayout(ctx, tmp)
	if err != nil {
		return err
	}
	if err := images.Walk(ctx, images.Handlers(images.ChildrenHandler(provider{s}), s.copyTo(out)), root); err != nil {
		return err
	}
	if err := out.seal(root); err != nil {
		return err
	}
	return swap(tmp, dest)
}

// copyTo returns the handler that copies each blob it is shown to out.
func (s *Stage) copyTo(out *Layout) images.HandlerFunc {
	return func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if s.foreign(desc) {
			return nil, nil
		}
		r, err := s.Fetch(ctx, desc)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return nil, out.Push(ctx, desc, r)
	}
}

// seal makes a finished layout of l: root is the one image of its index.json.
func (l *Layout) seal(root ocispec.Descriptor) error {
	err := writeJSON(filepath.Join(l.dir, ocispec.ImageIndexFile), ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{root},
	})
	if err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(l.dir, ingestDir)); err != nil {
		return err
	}
	return os.Chmod(l.dir, 0o755)
}

// CheckDir says whether WriteDir may write to dest: it refuses to replace anything
// but an OCI layout or an empty directory.
func CheckDir(dest string) error {
	entries, err := os.ReadDir(dest)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(entries) == 0:
		return nil
	case err == nil:
		if _, err = os.Stat(filepath.Join(dest, ocispec.ImageLayoutFile)); err == nil {
			return nil
		}
		err = errors.New("it exists and is not an OCI layout")
	}
	return fmt.Errorf("write OCI layout %s: %w", dest, err)
}

// swap gives the directory tmp the name dest and removes what had it.
func swap(tmp, dest string) error {
	old := tmp + ".old"
	switch err := os.Rename(dest, old); {
	case errors.Is(err, fs.ErrNotExist):
		return os.Rename(tmp, dest)
	case err != nil:
		return err
	}
	if err := os.Rename(tmp, dest); err != nil {
		return errors.Join(err, os.Rename(old, dest))
	}
	return os.RemoveAll(old)
}

// PushBytes pushes p to st under mediaType and returns its descriptor.
func PushBytes(ctx context.Context, st interface {
	Push(ctx context.Context, desc ocispec.Descriptor, content io.Reader) error
}, mediaType string, p []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(p), Size: int64(len(p))}
	return desc, st.Push(ctx, desc, bytes.NewReader(p))
}

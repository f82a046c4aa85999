// SPDX-License-Identifier: Apache-2.0

package store

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxMembers bounds the members of an archive.
const maxMembers = 1 << 20

// Source reads an OCI image layout where it lies: a directory, or an
// uncompressed tar of one. It is safe for concurrent use.
type Source struct {
	path    string
	archive *os.File // nil for a directory
	members map[string]*io.SectionReader
}

// OpenSource opens the OCI layout at name, a directory or a tar.
func OpenSource(name string) (*Source, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("open OCI layout: %w", err)
	}
	s := &Source{path: name}
	if !info.IsDir() {
		if err := s.openArchive(); err != nil {
			return nil, fmt.Errorf("open OCI archive %s: %w", name, err)
		}
	}
	if _, err := s.open(ocispec.ImageLayoutFile); err != nil {
		s.Close()
		return nil, fmt.Errorf("open %s: not an OCI layout: it has no %s file", name, ocispec.ImageLayoutFile)
	}
	return s, nil
}

// openArchive notes where in the tar its files are.
func (s *Source) openArchive() error {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	var magic [2]byte
	if n, _ := f.ReadAt(magic[:], 0); n == 2 && magic == [2]byte{0x1f, 0x8b} {
		f.Close()
		return errors.New("it is compressed with gzip: uncompress it first")
	}
	s.members = make(map[string]*io.SectionReader)
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && len(s.members) >= maxMembers {
			err = fmt.Errorf("more than %d members", maxMembers)
		}
		if err != nil {
			f.Close()
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		// The reader takes whole headers and skips by seeking, so the file's
		// offset is where the member's content begins.
		off, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			f.Close()
			return err
		}
		s.members[path.Clean(h.Name)] = io.NewSectionReader(f, off, h.Size)
	}
	s.archive = f
	return nil
}

// Close releases the source. What was opened from an archive cannot be read on.
func (s *Source) Close() error {
	if s.archive == nil {
		return nil
	}
	return s.archive.Close()
}

// file is a file of the layout.
type file struct {
	io.ReaderAt
	io.Closer
	size int64
}

// Size is the file's size in bytes.
func (f *file) Size() int64 { return f.size }

func (s *Source) open(name string) (*file, error) {
	if s.archive != nil {
		m, ok := s.members[name]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return &file{m, io.NopCloser(nil), m.Size()}, nil
	}
	// A pipe in place of a file must not make the open wait.
	f, err := os.OpenFile(filepath.Join(s.path, filepath.FromSlash(name)), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", f.Name())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &file{f, f, info.Size()}, nil
}

// openBlob opens the blob of desc; a size of 0 stands for unknown.
func (s *Source) openBlob(desc ocispec.Descriptor) (*file, error) {
	if err := checkDigest(desc.Digest); err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	f, err := s.open(path.Join(ocispec.ImageBlobsDir, desc.Digest.Algorithm().String(), desc.Digest.Encoded()))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("fetch %s from %s: %w", desc.Digest, s.path, errdefs.ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("fetch %s from %s: %w", desc.Digest, s.path, err)
	case desc.Size > 0 && f.size != desc.Size:
		f.Close()
		return nil, fmt.Errorf("fetch %s from %s: %d bytes, its descriptor says %d", desc.Digest, s.path, f.size, desc.Size)
	}
	return f, nil
}

// Fetch opens the blob of desc; a size of 0 stands for unknown.
func (s *Source) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	f, err := s.openBlob(desc)
	if err != nil {
		return nil, err
	}
	return blobReader{during(ctx, io.NewSectionReader(f, 0, f.size)), f}, nil
}

// Images returns the entries of the layout's index.json, each digest once.
func (s *Source) Images() ([]ocispec.Descriptor, error) {
	f, err := s.open(ocispec.ImageIndexFile)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", ocispec.ImageIndexFile, s.path, err)
	}
	defer f.Close()
	if f.size > MaxManifestSize {
		return nil, fmt.Errorf("read %s of %s: more than %d bytes", ocispec.ImageIndexFile, s.path, MaxManifestSize)
	}
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(io.NewSectionReader(f, 0, f.size)); err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", ocispec.ImageIndexFile, s.path, err)
	}
	var idx ocispec.Index
	if err := json.Unmarshal(buf.Bytes(), &idx); err != nil {
		return nil, fmt.Errorf("decode %s of %s: %w", ocispec.ImageIndexFile, s.path, err)
	}
	var list []ocispec.Descriptor
	seen := make(map[string]bool)
	for _, d := range idx.Manifests {
		if err := checkDigest(d.Digest); err != nil {
			return nil, fmt.Errorf("decode %s of %s: %w", ocispec.ImageIndexFile, s.path, err)
		}
		if !seen[d.Digest.String()] {
			seen[d.Digest.String()] = true
			list = append(list, d)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s names no image in its %s", s.path, ocispec.ImageIndexFile)
	}
	return list, nil
}

// SPDX-License-Identifier: Apache-2.0

// Package image makes container images from trees on disk: a realistic one of
// the machine's Go tree, and a torture one with everything a layer can hold.
//
// A [Builder] writes an OCI image layout layer by layer; [Image.Push] copies it to a registry.
//
//	b, err := image.New(dir)
//	err = b.Layer(image.Gzip, func(w *tar.Writer) error { return image.Tree(w, "usr/local/go", goroot) })
//	img, err := b.Image(ocispec.ImageConfig{Env: []string{"PATH=/usr/local/go/bin"}})
//	err = img.Push(ctx, "127.0.0.1:5000/go:1.26")
//
// # Limits
//
// One platform, the machine's. Layers of [Tree] are streamed to disk; those of
// [Builder.Encoded] are made in memory.
//
// # Decisions
//
//   - An OCI layout on disk in between, because a registry wants a blob's digest before its bytes; it also is what soci convert --standalone takes.
//   - Pushed with oras-go, not with our registry client: the images do not depend on what they test.
//   - Equal trees give equal images: names are sorted, owners and times of creation fixed.
package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	oras "oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
)

// created is when every image was made, so that equal trees give equal images.
func created() time.Time { return time.Unix(1700000000, 0).UTC() }

// layoutTag names the image within its own layout.
const layoutTag = "image"

// Builder writes an OCI image layout.
type Builder struct {
	dir     string
	layers  []ocispec.Descriptor
	diffIDs []digest.Digest
	tarSize int64
}

// New starts an image in dir, which it makes.
func New(dir string) (*Builder, error) {
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		return nil, err
	}
	return &Builder{dir: dir}, nil
}

// Encoding is how a layer is compressed, as far as it can be streamed.
type Encoding int

// The encodings: gzip -6 as most builders write it, and none.
const (
	Gzip Encoding = iota
	Plain
)

// Layer adds the layer whose entries fill writes, streaming it to disk.
func (b *Builder) Layer(enc Encoding, fill func(*tar.Writer) error) error {
	return b.blob(func(out io.Writer) (digest.Digest, string, error) {
		diffID := sha256.New()
		var z io.WriteCloser = nopCloser{out}
		mediaType := ocispec.MediaTypeImageLayer
		if enc == Gzip {
			mediaType = ocispec.MediaTypeImageLayerGzip
			var err error
			if z, err = gzip.NewWriterLevel(out, 6); err != nil {
				return "", "", err
			}
		}
		counted := &counter{w: io.MultiWriter(z, diffID)}
		w := tar.NewWriter(counted)
		if err := errors.Join(fill(w), w.Close(), z.Close()); err != nil {
			return "", "", err
		}
		b.tarSize += counted.n
		return digest.NewDigest(digest.SHA256, diffID), mediaType, nil
	})
}

// Encoded adds the layer of the archive as encode compresses it.
func (b *Builder) Encoded(archive []byte, encode func([]byte) ([]byte, error)) error {
	return b.blob(func(out io.Writer) (digest.Digest, string, error) {
		layer, err := encode(archive)
		if err != nil {
			return "", "", err
		}
		b.tarSize += int64(len(archive))
		_, err = out.Write(layer)
		return digest.FromBytes(archive), ocispec.MediaTypeImageLayerGzip, err
	})
}

// Compressed adds the layer of a gzip file as it is, streaming it.
func (b *Builder) Compressed(path string) error {
	return b.blob(func(out io.Writer) (digest.Digest, string, error) {
		f, err := os.Open(path)
		if err != nil {
			return "", "", err
		}
		defer f.Close()
		z, err := gzip.NewReader(io.TeeReader(f, out))
		if err != nil {
			return "", "", fmt.Errorf("layer %s: %w", path, err)
		}
		diffID := sha256.New()
		n, err := io.Copy(diffID, z)
		b.tarSize += n
		if err != nil {
			err = fmt.Errorf("layer %s: %w", path, err)
		}
		return digest.NewDigest(digest.SHA256, diffID), ocispec.MediaTypeImageLayerGzip, err
	})
}

// blob adds the layer that write writes to its blob; write returns the diffID and the media type.
func (b *Builder) blob(write func(io.Writer) (digest.Digest, string, error)) (err error) {
	f, err := os.CreateTemp(b.dir, "layer-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := &summed{w: f, h: sha256.New()}
	diffID, mediaType, err := write(sum)
	if err != nil {
		return fmt.Errorf("write layer %d: %w", len(b.layers), err)
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.NewDigest(digest.SHA256, sum.h), Size: sum.n}
	b.layers, b.diffIDs = append(b.layers, desc), append(b.diffIDs, diffID)
	return os.Rename(f.Name(), b.file(desc.Digest))
}

func (b *Builder) file(d digest.Digest) string {
	return filepath.Join(b.dir, "blobs/sha256", d.Encoded())
}

// Image is a finished image.
type Image struct {
	Dir      string // of the OCI layout
	Manifest ocispec.Descriptor
	Layers   []ocispec.Descriptor // lowest first
	DiffIDs  []digest.Digest
	TarSize  int64 // bytes of all layers uncompressed
}

// CompressedSize is the sum of the layers' sizes in bytes.
func (i *Image) CompressedSize() int64 {
	var sum int64
	for _, l := range i.Layers {
		sum += l.Size
	}
	return sum
}

// Image finishes the image.
func (b *Builder) Image(config ocispec.ImageConfig) (*Image, error) {
	made := created()
	configDesc, err := b.json(ocispec.MediaTypeImageConfig, ocispec.Image{
		Created:  &made,
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config:   config,
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: b.diffIDs},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := b.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: configDesc, Layers: b.layers,
	})
	if err != nil {
		return nil, err
	}
	named := manifest
	named.Annotations = map[string]string{ocispec.AnnotationRefName: layoutTag}
	for name, v := range map[string]any{
		ocispec.ImageLayoutFile: ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion},
		ocispec.ImageIndexFile:  ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{named}},
	} {
		p, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(b.dir, name), p, 0o644); err != nil {
			return nil, err
		}
	}
	return &Image{Dir: b.dir, Manifest: manifest, Layers: b.layers, DiffIDs: b.diffIDs, TarSize: b.tarSize}, nil
}

func (b *Builder) json(mediaType string, v any) (ocispec.Descriptor, error) {
	p, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(p), Size: int64(len(p))}
	return desc, os.WriteFile(b.file(desc.Digest), p, 0o644)
}

// Push copies the image to ref, a tag in a registry that speaks plain http.
func (i *Image) Push(ctx context.Context, ref string) error {
	return push(ctx, i.Dir, layoutTag, ref)
}

// PushRoot copies the one image that an OCI layout directory holds, with everything it refers to, to ref.
func PushRoot(ctx context.Context, dir, ref string) error {
	p, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err != nil {
		return err
	}
	var root ocispec.Index
	if err := json.Unmarshal(p, &root); err != nil {
		return fmt.Errorf("read index of layout %s: %w", dir, err)
	}
	if len(root.Manifests) != 1 {
		return fmt.Errorf("read index of layout %s: it lists %d images, not one", dir, len(root.Manifests))
	}
	return push(ctx, dir, root.Manifests[0].Digest.String(), ref)
}

func push(ctx context.Context, dir, tag, ref string) error {
	from, err := oci.NewFromFS(ctx, os.DirFS(dir))
	if err != nil {
		return fmt.Errorf("open layout %s: %w", dir, err)
	}
	to, err := Repository(ref)
	if err != nil {
		return err
	}
	if _, err := oras.Copy(ctx, from, tag, to, to.Reference.Reference, oras.DefaultCopyOptions); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}

// Repository is the repository of ref for looking at what is there and for tampering with it, apart from our own client.
func Repository(ref string) (*remote.Repository, error) {
	parsed, err := registry.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("reference %s: %w", ref, err)
	}
	return &remote.Repository{Reference: parsed, PlainHTTP: true}, nil
}

// Bytes returns a blob of the image's layout.
func (i *Image) Bytes(desc ocispec.Descriptor) ([]byte, error) {
	return os.ReadFile(filepath.Join(i.Dir, "blobs/sha256", desc.Digest.Encoded()))
}

// AddFile writes one regular file, owned by root.
func AddFile(w *tar.Writer, name string, mode int64, data []byte) error {
	hdr := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), ModTime: created()}
	if err := w.WriteHeader(hdr); err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	_, err := io.Copy(w, bytes.NewReader(data))
	return err
}

// AddDir writes one directory, owned by root.
func AddDir(w *tar.Writer, name string, mode int64) error {
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, ModTime: created()})
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// summed counts and hashes what is written.
type summed struct {
	w io.Writer
	h hash.Hash
	n int64
}

func (s *summed) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.h.Write(p[:n])
	s.n += int64(n)
	return n, err
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

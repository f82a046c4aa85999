// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// unpack returns the layer's archive, checking its digests on the way.
func unpack(t *testing.T, i *Image, n int) []byte {
	t.Helper()
	layer := must[[]byte](t)(i.Bytes(i.Layers[n]))
	if got := digest.FromBytes(layer); got != i.Layers[n].Digest || int64(len(layer)) != i.Layers[n].Size {
		t.Errorf("layer %d is %s of %d bytes, its descriptor says %s of %d", n, got, len(layer), i.Layers[n].Digest, i.Layers[n].Size)
	}
	archive := layer
	if i.Layers[n].MediaType == ocispec.MediaTypeImageLayerGzip {
		archive = must[[]byte](t)(io.ReadAll(must[*gzip.Reader](t)(gzip.NewReader(bytes.NewReader(layer)))))
	}
	if got := digest.FromBytes(archive); got != i.DiffIDs[n] {
		t.Errorf("layer %d unpacks to %s, its diffID is %s", n, got, i.DiffIDs[n])
	}
	return archive
}

func names(t *testing.T, archive []byte) []string {
	t.Helper()
	var out []string
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, hdr.Name)
	}
}

func TestTree(t *testing.T) {
	root := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(root, "b/empty"), 0o755),
		os.WriteFile(filepath.Join(root, "a"), []byte("a"), 0o600),
		os.Symlink("../a", filepath.Join(root, "b/inside")),
		os.Symlink("nowhere", filepath.Join(root, "b/dangling")),
		os.WriteFile(outside, []byte("o"), 0o600),
		os.Symlink(outside, filepath.Join(root, "b/outside")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	b := must[*Builder](t)(New(t.TempDir()))
	for _, enc := range []Encoding{Gzip, Plain} {
		if err := b.Layer(enc, func(w *tar.Writer) error { return Tree(w, "go", root) }); err != nil {
			t.Fatal(err)
		}
	}
	i := must[*Image](t)(b.Image(ocispec.ImageConfig{}))
	want := []string{"go/", "go/a", "go/b/", "go/b/dangling", "go/b/empty/", "go/b/inside", "go/b/outside"}
	for n := range i.Layers {
		archive := unpack(t, i, n)
		if got := names(t, archive); !slices.Equal(got, want) {
			t.Errorf("layer %d has %q, want %q", n, got, want)
		}
		if !bytes.Contains(archive, []byte("o")) {
			t.Error("the file that a link outside points at is missing")
		}
	}
	if i.DiffIDs[0] != i.DiffIDs[1] {
		t.Error("the same tree gave two archives")
	}
}

func TestTreeInCircles(t *testing.T) {
	root, other := t.TempDir(), t.TempDir()
	if err := errors.Join(os.Symlink(other, filepath.Join(root, "there")), os.Symlink(other, filepath.Join(other, "again"))); err != nil {
		t.Fatal(err)
	}
	if err := Tree(tar.NewWriter(io.Discard), "go", root); err == nil {
		t.Error("no error for links in circles")
	}
}

func TestTortureIsDeterministic(t *testing.T) {
	one := must[*Image](t)(torture(t.Context(), t.TempDir(), 2<<20))
	two := must[*Image](t)(torture(t.Context(), t.TempDir(), 2<<20))
	if one.Manifest.Digest != two.Manifest.Digest {
		t.Errorf("made twice, it is %s and %s", one.Manifest.Digest, two.Manifest.Digest)
	}
	for n := range one.Layers {
		unpack(t, one, n)
	}
}

// TestCompressed holds that a layer file becomes a layer as it is, and that one that is cut off does not.
func TestCompressed(t *testing.T) {
	dir := t.TempDir()
	b := must[*Builder](t)(New(filepath.Join(dir, "a")))
	if err := b.Layer(Gzip, func(w *tar.Writer) error { return AddFile(w, "f", 0o644, []byte("content")) }); err != nil {
		t.Fatal(err)
	}
	a := must[*Image](t)(b.Image(ocispec.ImageConfig{}))
	layer := must[[]byte](t)(a.Bytes(a.Layers[0]))
	whole, cut := filepath.Join(dir, "whole.gz"), filepath.Join(dir, "cut.gz")
	for path, p := range map[string][]byte{whole: layer, cut: layer[:len(layer)-9]} {
		if err := os.WriteFile(path, p, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b = must[*Builder](t)(New(filepath.Join(dir, "b")))
	if err := b.Compressed(cut); err == nil {
		t.Error("a layer that is cut off was added")
	}
	b = must[*Builder](t)(New(filepath.Join(dir, "c")))
	if err := b.Compressed(whole); err != nil {
		t.Fatal(err)
	}
	if c := must[*Image](t)(b.Image(ocispec.ImageConfig{})); c.Manifest.Digest != a.Manifest.Digest || c.TarSize != a.TarSize {
		t.Errorf("image %v of %d bytes, want %v of %d", c.Manifest, c.TarSize, a.Manifest, a.TarSize)
	}
}

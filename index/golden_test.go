// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/index/indextest"
	"github.com/seekoci/seekoci/ztoc"
)

// golden returns the directory of what the incumbent wrote.
func golden(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("SEEKOCI_GOLDEN")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "golden")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no golden vectors: %v (set SEEKOCI_GOLDEN)", err)
	}
	return dir
}

// goldenImage loads the golden image into a new store.
func goldenImage(t *testing.T, dir string) (*indextest.Store, ocispec.Descriptor) {
	t.Helper()
	s := new(indextest.Store)
	return s, must(s.Load(filepath.Join(dir, "image")))(t)[0]
}

// must turns a result into one that fails the test on error.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestGoldenV1(t *testing.T) {
	dir := golden(t)
	want := must(os.ReadFile(filepath.Join(dir, "v1-index-span-65536.json")))(t)
	s, image := goldenImage(t, dir)
	_, desc, err := index.Build(t.Context(), s, image, index.V1, index.BuildOptions{
		ZTOC: ztoc.BuildOptions{SpanSize: 65536}, MinLayerSize: -1,
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Bytes(desc.Digest); !bytes.Equal(got, want) {
		t.Errorf("index:\n%s\nwant:\n%s", got, want)
	}
}

func TestGoldenConvert(t *testing.T) {
	dir := golden(t)
	for name, size := range map[string]int64{"v2-span-65536": 65536, "v2-span-1048576": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			s, image := goldenImage(t, dir)
			want := new(indextest.Store)
			root := must(want.Load(filepath.Join(dir, name)))(t)[0]
			opts := index.BuildOptions{ZTOC: ztoc.BuildOptions{SpanSize: size}, MinLayerSize: -1}
			c, err := index.Convert(t.Context(), s, image, nil, opts)
			if err != nil {
				t.Fatal(err)
			}
			if c.Index.Digest != root.Digest || c.Index.Size != root.Size {
				t.Errorf("image index %s, want %s", s.Bytes(c.Index.Digest), want.Bytes(root.Digest))
			}
			for _, d := range s.Pushed() {
				if want.Bytes(d.Digest) == nil {
					t.Errorf("pushed %s %s, which the incumbent does not have", d.MediaType, d.Digest)
				}
			}
			again, err := index.Convert(t.Context(), s, c.Index, nil, opts)
			if err != nil {
				t.Fatal(err)
			}
			if again.Index.Digest != c.Index.Digest {
				t.Errorf("converted again: %s", s.Bytes(again.Index.Digest))
			}
		})
	}
}

// TestGoldenMarshal holds that decoding and encoding the incumbent's indexes changes nothing.
func TestGoldenMarshal(t *testing.T) {
	dir := golden(t)
	files := []string{filepath.Join(dir, "v1-index-span-65536.json")}
	for _, pattern := range []string{"v2-span-65536/blobs/sha256/c48377*", "v2-span-1048576/blobs/sha256/3a2063*"} {
		files = append(files, must(filepath.Glob(filepath.Join(dir, pattern)))(t)...)
	}
	if len(files) != 3 {
		t.Fatalf("found %v", files)
	}
	for _, f := range files {
		p := must(os.ReadFile(f))(t)
		x := must(index.Unmarshal(p))(t)
		got, desc, err := x.Marshal()
		if err != nil || !bytes.Equal(got, p) || desc.Size != int64(len(p)) {
			t.Errorf("%s: %v\n%s\nwant\n%s", f, err, got, p)
		}
	}
}

// TestGoldenReuse converts with the incumbent's zTOCs, so that only the documents around them are ours.
func TestGoldenReuse(t *testing.T) {
	dir := golden(t)
	s, image := goldenImage(t, dir)
	root := must(s.Load(filepath.Join(dir, "v2-span-65536")))(t)[0]
	v1 := must(index.Unmarshal(must(os.ReadFile(filepath.Join(dir, "v1-index-span-65536.json")))(t)))(t)
	c, err := index.Convert(t.Context(), s, image, nil, index.BuildOptions{
		ZTOC: ztoc.BuildOptions{SpanSize: 65536}, MinLayerSize: -1,
		Reuse: func(layer digest.Digest, _ string, spanSize int64) (ocispec.Descriptor, bool) {
			if spanSize != 65536 {
				t.Errorf("asked for span size %d", spanSize)
			}
			return v1.ZTOC(layer)
		},
		OnLayer: func(r index.LayerResult) {
			if !r.Reused {
				t.Error(r)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Index.Digest != root.Digest {
		t.Errorf("image index %s, want %s", s.Bytes(c.Index.Digest), s.Bytes(root.Digest))
	}
}

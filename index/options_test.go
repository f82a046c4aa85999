// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"archive/tar"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/index/indextest"
	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestBuildReuse holds that zTOCs are reused exactly if they are there, whole, and of this layer and span size.
func TestBuildReuse(t *testing.T) {
	s := new(indextest.Store)
	manifest := s.Image(amd64, layer(t, 1))
	build := func(manifest ocispec.Descriptor, spanSize, compact int64) *index.Index {
		opts := index.BuildOptions{MinLayerSize: -1, CompactSpanSize: compact, ZTOC: ztoc.BuildOptions{SpanSize: spanSize}}
		x, _, err := index.Build(t.Context(), s, manifest, index.V1, opts)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	good := build(manifest, 16<<10, 64<<10).Layers
	other := build(s.Image(amd64, layer(t, 2)), 16<<10, 64<<10).Layers
	coarse := build(manifest, 0, 1<<20).Layers
	gone := ocispec.Descriptor{Digest: dgstA, Size: 1}
	damaged := s.Add(index.MediaTypeZTOC, []byte("damaged"))
	s.Replace(damaged.Digest, []byte("DAMAGED"))
	notZTOC := s.Add(index.MediaTypeZTOC, []byte("not a zTOC"))
	for _, compact := range []int64{0, 64 << 10} {
		for name, c := range map[string]struct {
			made   []ocispec.Descriptor
			reused bool
		}{
			"good": {good, true}, "gone": {[]ocispec.Descriptor{gone, good[1]}, false},
			"damaged": {[]ocispec.Descriptor{damaged, good[1]}, false}, "no zTOC": {[]ocispec.Descriptor{notZTOC, good[1]}, false},
			"of another layer": {other, false}, "of another span size": {coarse, false},
			"compact gone":                 {[]ocispec.Descriptor{good[0], gone}, compact == 0},
			"compact of another layer":     {[]ocispec.Descriptor{good[0], other[1]}, compact == 0},
			"compact of another span size": {[]ocispec.Descriptor{good[0], coarse[1]}, compact == 0},
			"not compact":                  {[]ocispec.Descriptor{good[0], good[0]}, compact == 0},
			"not 0.9":                      {[]ocispec.Descriptor{good[1], good[1]}, false},
			"none":                         {nil, false},
		} {
			opts := all()
			opts.CompactSpanSize = compact
			opts.Reuse = func(l digest.Digest, mediaType string, spanSize int64) (ocispec.Descriptor, bool) {
				i := slices.Index([]string{index.MediaTypeZTOC, index.MediaTypeCompact}, mediaType)
				if want := []int64{16 << 10, compact}[i]; l != digest.FromBytes(layer(t, 1).Content) || spanSize != want {
					t.Errorf("asked for %s of layer %s with span size %d", mediaType, l, spanSize)
				}
				if c.made == nil {
					return ocispec.Descriptor{}, false
				}
				return ocispec.Descriptor{Digest: c.made[i].Digest, Size: c.made[i].Size}, true
			}
			read := false
			s.OnFetch = func(d ocispec.Descriptor) error {
				read = read || d.MediaType == ocispec.MediaTypeImageLayerGzip
				return nil
			}
			opts.OnLayer = func(r index.LayerResult) {
				if r.Reused != c.reused || strings.HasSuffix(r.String(), " (already exists)") != c.reused {
					t.Errorf("%s: %s", name, r)
				}
			}
			x, _, err := index.Build(t.Context(), s, manifest, index.V1, opts)
			if err != nil || fmt.Sprint(x.Layers) != fmt.Sprint(good[:len(x.Layers)]) || (len(x.Layers) == 2) != (compact > 0) {
				t.Errorf("%s: zTOCs %v, %v; want %v", name, x.Layers, err, good)
			}
			if read == c.reused {
				t.Errorf("%s, compact span size %d: layer read %t", name, compact, read)
			}
		}
	}
}

func TestBuildDisableXattrs(t *testing.T) {
	header := func(name string, pax map[string]string) ztoctest.File {
		return ztoctest.File{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, PAXRecords: pax}}
	}
	for name, c := range map[string]struct {
		file ztoctest.File
		want bool
	}{
		"none":   {header("a", nil), true},
		"xattr":  {header("a", map[string]string{"SCHILY.xattr.user.x": "y"}), false},
		"opaque": {header("d/.wh..wh..opq", nil), false},
		"other":  {header("a", map[string]string{"mtime": "1.5"}), true},
	} {
		content := gz(t, must(ztoctest.Tar([]ztoctest.File{c.file}, ztoctest.TarOptions{}))(t))
		for _, on := range []bool{true, false} {
			s := new(indextest.Store)
			opts := all()
			opts.DisableXattrs = on
			x, _, err := index.Build(t.Context(), s, s.Image(amd64, indextest.Layer{Content: content}), index.V1, opts)
			if err != nil {
				t.Fatal(err)
			}
			if got := index.XattrsDisabled(x.Layers[0]); got != (on && c.want) {
				t.Errorf("%s, option %t: annotations %v", name, on, x.Layers[0].Annotations)
			}
		}
	}
}

func TestBuildPrefetch(t *testing.T) {
	s := new(indextest.Store)
	// lib is in both layers: the upper one hides the lower.
	lower := indextest.Layer{Content: gz(t, tarOf(t, 1, 100_000, "./bin/sh", "usr/lib/lib.so", "etc/a", "etc/b"))}
	upper := indextest.Layer{Content: gz(t, tarOf(t, 9, 100_000, "usr/lib/lib.so", "opt/x"))}
	manifest := s.Image(amd64, lower, upper)
	opts := all()
	opts.Prefetch = []string{"/bin/sh", "usr//lib/lib.so", "etc/b", "no/such", "", "/", "etc/b"}
	var lines []string
	opts.OnPrefetch = func(r index.PrefetchResult) { lines = append(lines, r.String()) }
	x, _, err := index.Build(t.Context(), s, manifest, index.V2, opts)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := mediaTypes(x.Layers), []string{index.MediaTypeZTOC, index.MediaTypeZTOC, index.MediaTypePrefetch, index.MediaTypePrefetch}; !slices.Equal(got, want) {
		t.Fatalf("layers %v", got)
	}
	want := []string{`prefetch file "no/such" is not a file of any layer with a ztoc`}
	for i, c := range []struct {
		layer indextest.Layer
		files []string
	}{{lower, []string{"./bin/sh", "etc/b"}}, {upper, []string{"usr/lib/lib.so"}}} {
		dgst := digest.FromBytes(c.layer.Content)
		d, ok := x.Prefetch(dgst)
		if !ok || d.Digest != x.Layers[2+i].Digest || len(d.Annotations) != 1 {
			t.Fatalf("prefetch artifact of layer %d: %v, %t", i, d, ok)
		}
		want = append(want, fmt.Sprintf("Created prefetch artifact for layer %s: %s", dgst, d.Digest))
		zd, _ := x.ZTOC(dgst)
		z := must(index.ReadZTOC(t.Context(), s, zd))(t)
		p := must(index.ReadPrefetch(t.Context(), s, d))(t)
		checkPrefetch(t, z, p, c.files)
	}
	if !slices.Equal(lines, want) {
		t.Errorf("events:\n%s\nwant:\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

// checkPrefetch holds that p is the spans of files and, at most, the one behind each.
func checkPrefetch(t *testing.T, z *ztoc.Reader, p *index.Prefetch, files []string) {
	t.Helper()
	in := make(map[int]bool)
	for _, r := range p.Spans {
		for i := r.Start; i < r.End; i++ {
			in[i] = true
		}
	}
	wanted := make(map[int]bool)
	found := 0
	for _, e := range z.Entries() {
		if !slices.Contains(files, e.Name) {
			continue
		}
		found++
		for i, sp := range z.ZInfo().Spans {
			if sp.Out.Off <= e.Offset+e.Size && sp.Out.End() > e.Offset {
				wanted[i] = true
			}
		}
	}
	if found != len(files) || len(wanted) < 2 {
		t.Fatalf("%d files of %v, %d spans", found, files, len(wanted))
	}
	if fmt.Sprint(in) != fmt.Sprint(wanted) {
		t.Errorf("spans %v of %v, want %v", in, files, wanted)
	}
}

// TestBuildHostileManifest holds that a manifest is bounded and checked before its layers are touched.
func TestBuildHostileManifest(t *testing.T) {
	for name, p := range map[string]string{
		"not JSON":       "{",
		"schema version": `{"schemaVersion":1}`,
		"media type":     `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json"}`,
		"no config":      `{"schemaVersion":2,"layers":[]}`,
		"layer size":     `{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"` + emptyDigest + `","size":2},"layers":[{"mediaType":"a/b","digest":"` + emptyDigest + `","size":-1}]}`,
		"layers": `{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"` + emptyDigest + `","size":2},"layers":[` +
			strings.Repeat(`{},`, index.MaxLayers) + `{}]}`,
	} {
		s := new(indextest.Store)
		desc := s.Add(ocispec.MediaTypeImageManifest, []byte(p))
		if _, _, err := index.Build(t.Context(), s, desc, index.V1, all()); !errors.Is(err, index.ErrFormat) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	s := new(indextest.Store)
	for name, d := range map[string]ocispec.Descriptor{
		"too large": {MediaType: ocispec.MediaTypeImageManifest, Digest: dgstA, Size: index.MaxManifestSize + 1},
		"negative":  {MediaType: ocispec.MediaTypeImageManifest, Digest: dgstA, Size: -1},
		"no digest": {MediaType: ocispec.MediaTypeImageManifest, Size: 5},
	} {
		s.OnFetch = func(ocispec.Descriptor) error { t.Errorf("%s: fetched", name); return nil }
		if _, _, err := index.Build(t.Context(), s, d, index.V1, all()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

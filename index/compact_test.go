// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"bytes"
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
)

// TestBuildCompact holds that compact zTOCs are added to an index behind all that is there without them.
func TestBuildCompact(t *testing.T) {
	for _, version := range []index.Version{index.V1, index.V2} {
		s := new(indextest.Store)
		tars := [][]byte{tarOf(t, 1, 100_000, "a", "b"), tarOf(t, 9, 100_000, "a", "c")}
		layers := []indextest.Layer{
			{Content: gz(t, tars[0])},
			{Content: []byte("too small")},
			{Content: gz(t, tars[1])},
			{Content: gz(t, tars[0])}, // again
		}
		manifest := s.Image(amd64, layers...)
		opts := all()
		opts.MinLayerSize = 100
		opts.Prefetch = []string{"b"}
		plain, plainDesc, err := index.Build(t.Context(), s, manifest, version, opts)
		if err != nil {
			t.Fatal(err)
		}
		opts.CompactSpanSize = 64 << 10
		var lines []string
		opts.OnLayer = func(r index.LayerResult) { lines = append(lines, r.String()) }
		s.ForgetPushed()
		x, _, err := index.Build(t.Context(), s, manifest, version, opts)
		if err != nil {
			t.Fatal(err)
		}
		n := len(plain.Layers)
		want := append(mediaTypes(plain.Layers), index.MediaTypeCompact, index.MediaTypeCompact, index.MediaTypeCompact)
		if got := mediaTypes(x.Layers); !slices.Equal(got, want) || n != 4 {
			t.Fatalf("layers %v, want %v", got, want)
		}
		var pushed []string
		for _, d := range s.Pushed() {
			pushed = append(pushed, d.MediaType)
		}
		// The layer that occurs twice has one zTOC of each format, and the config is there.
		if want := []string{index.MediaTypeZTOC, index.MediaTypeZTOC, index.MediaTypePrefetch, index.MediaTypeCompact, index.MediaTypeCompact, version.ArtifactType(), ocispec.MediaTypeImageManifest}; !slices.Equal(pushed, want) {
			t.Errorf("pushed %v, want %v", pushed, want)
		}
		for i, k := range []int{0, 2, 3} {
			checkCompact(t, s, x, layers[k].Content, tars[[]int{0, 0, 1, 0}[k]])
			if line := fmt.Sprintf("layer %s -> ztoc %s, compact %s", digest.FromBytes(layers[k].Content), x.Layers[i].Digest, x.Layers[n+i].Digest); lines[k] != line {
				t.Errorf("line %q, want %q", lines[k], line)
			}
		}
		// Without them it is the index of before.
		x.Layers = x.Layers[:n]
		if _, d, err := x.Marshal(); err != nil || d.Digest != plainDesc.Digest {
			t.Errorf("the rest of the index is %s, %v; want %s", d.Digest, err, plainDesc.Digest)
		}
	}
}

// checkCompact holds that x has zTOCs of both formats of a layer, which say the same.
func checkCompact(t *testing.T, s *indextest.Store, x *index.Index, layer, tar []byte) {
	t.Helper()
	dgst := digest.FromBytes(layer)
	zd, _ := x.ZTOC(dgst)
	cd, ok := x.Compact(dgst)
	if !ok || cd.Annotations[index.AnnotationSpanSize] != "65536" {
		t.Fatalf("compact zTOC of %s: %v, %t", dgst, cd, ok)
	}
	for _, k := range []string{index.AnnotationLayerDigest, index.AnnotationLayerMediaType} {
		if v := cd.Annotations[k]; v != zd.Annotations[k] || v == "" {
			t.Errorf("annotation %s is %q, of the zTOC %q", k, v, zd.Annotations[k])
		}
	}
	z := must(index.ReadZTOC(t.Context(), s, zd))(t)
	c := must(index.ReadZTOC(t.Context(), s, cd))(t)
	if z.Format() != ztoc.Format09 || c.Format() != ztoc.FormatCompact {
		t.Fatalf("formats %s and %s", z.Format(), c.Format())
	}
	if c.LayerDigest() != dgst || c.DiffID() != digest.FromBytes(tar) || z.LayerDigest() != "" {
		t.Errorf("compact zTOC is of layer %s, diffID %s", c.LayerDigest(), c.DiffID())
	}
	var names [2][]string
	for i, r := range []*ztoc.Reader{z, c} {
		for _, e := range r.Entries() {
			names[i] = append(names[i], fmt.Sprint(e))
		}
	}
	if len(names[0]) != 2 || !slices.Equal(names[0], names[1]) {
		t.Errorf("entries\n%v\nwant\n%v", names[1], names[0])
	}
	if c.ZInfo().SpanSize != 64<<10 || len(c.ZInfo().Spans) < 3 {
		t.Errorf("%d spans of %d bytes", len(c.ZInfo().Spans), c.ZInfo().SpanSize)
	}
}

// TestGoldenCompact holds that the zTOCs of the golden image stay the incumbent's beside the compact ones.
func TestGoldenCompact(t *testing.T) {
	dir := golden(t)
	s, image := goldenImage(t, dir)
	opts := index.BuildOptions{MinLayerSize: -1, ZTOC: ztoc.BuildOptions{SpanSize: 65536}}
	plain, err := index.Convert(t.Context(), s, image, nil, opts)
	if err != nil {
		t.Fatal(err)
	}
	opts.CompactSpanSize = 64 << 10
	c, err := index.Convert(t.Context(), s, image, nil, opts)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range c.Platforms {
		want := plain.Platforms[i].Index.Layers
		if fmt.Sprint(p.Index.Layers[:len(want)]) != fmt.Sprint(want) || len(p.Index.Layers) != 2*len(want) {
			t.Errorf("%s: layers %v, want %v and as many compact ones", plain.Platforms[i].SOCI.Digest, p.Index.Layers, want)
		}
		if fmt.Sprint(c.Written[i].Children) != fmt.Sprint(p.Index.Layers) {
			t.Errorf("children of the index are %v", c.Written[i].Children)
		}
	}
}

// TestIncumbentIgnores holds that an artifact of a media type that a reader does not know does not change what it
// knows of the others: what the incumbent does with compact zTOCs, and what we do with those to come.
func TestIncumbentIgnores(t *testing.T) {
	s := new(indextest.Store)
	manifest := s.Image(amd64, layer(t, 1))
	opts := all()
	opts.CompactSpanSize = 64 << 10
	x, _, err := index.Build(t.Context(), s, manifest, index.V2, opts)
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := x.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	p = bytes.ReplaceAll(p, []byte(index.MediaTypeCompact), []byte("application/vnd.example.ztoc.v9"))
	y, err := index.Unmarshal(p)
	if err != nil {
		t.Fatal(err)
	}
	dgst := digest.FromBytes(layer(t, 1).Content)
	z, ok := y.ZTOC(dgst)
	if _, compact := y.Compact(dgst); !ok || compact || z.Digest != x.Layers[0].Digest {
		t.Errorf("zTOC %v, compact %t", z, compact)
	}
}

// TestUnmarshalCompactRefuses holds compact zTOCs to what every zTOC of an index must have.
func TestUnmarshalCompactRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*ocispec.Descriptor){
		"empty":           func(d *ocispec.Descriptor) { d.Size = 0 },
		"without a layer": func(d *ocispec.Descriptor) { delete(d.Annotations, index.AnnotationLayerDigest) },
		"no digest":       func(d *ocispec.Descriptor) { d.Digest = "sha256:x" },
	} {
		x := sample(index.V2)
		d := x.Layers[0]
		d.MediaType = index.MediaTypeCompact
		d.Annotations = map[string]string{index.AnnotationLayerDigest: string(dgstA)}
		x.Layers = append(x.Layers, d)
		p, _, err := x.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := index.Unmarshal(p); err != nil {
			t.Fatalf("%s, before: %v", name, err)
		}
		spoil(&x.Layers[len(x.Layers)-1])
		if p, _, err = x.Marshal(); err != nil {
			t.Fatal(err)
		}
		if _, err := index.Unmarshal(p); !errors.Is(err, index.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBuildOtherDigests holds that layers with digests of another algorithm are verified, too.
func TestBuildOtherDigests(t *testing.T) {
	for name, spoil := range map[string]bool{"good": false, "flipped": true} {
		s := new(indextest.Store)
		content := layer(t, 1).Content
		m := s.Bytes(s.Image(amd64, layer(t, 1)).Digest)
		d := digest.SHA512.FromBytes(content)
		m = []byte(strings.ReplaceAll(string(m), digest.FromBytes(content).String(), d.String()))
		if spoil {
			content[4] ^= 1 // the time in the gzip header, which nothing but the digest covers
		}
		s.Add(ocispec.MediaTypeImageLayerGzip, content)
		s.Replace(d, content)
		_, _, err := index.Build(t.Context(), s, s.Add(ocispec.MediaTypeImageManifest, m), index.V2, all())
		if errors.Is(err, index.ErrDigest) != spoil || (err != nil) != spoil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/index/indextest"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestVerifyListed holds that verify tells of everything that an index says of its zTOCs and is not so.
func TestVerifyListed(t *testing.T) {
	s := new(indextest.Store)
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	var config ocispec.Image
	for seed := range uint64(2) {
		p, err := ztoctest.Tar(ztoctest.Files(seed, 3), ztoctest.TarOptions{})
		if err != nil {
			t.Fatal(err)
		}
		m.Layers = append(m.Layers, s.Add(ocispec.MediaTypeImageLayer, p))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(p))
	}
	put := func(mediaType string, v any) ocispec.Descriptor {
		p, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return s.Add(mediaType, p)
	}
	m.Config = put(ocispec.MediaTypeImageConfig, config)
	good, _, err := index.Build(t.Context(), s, put(m.MediaType, m), index.V2, index.BuildOptions{MinLayerSize: -1, CompactSpanSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	listed := func(z ocispec.Descriptor, mediaType string, layer digest.Digest) ocispec.Descriptor {
		z.MediaType = mediaType
		z.Annotations = map[string]string{index.AnnotationLayerDigest: layer.String()}
		return z
	}
	layer, z, c := m.Layers[0].Digest, good.Layers[0], good.Layers[2]
	for _, v := range []struct {
		name         string
		add          []ocispec.Descriptor // to the good ones
		checked, bad int
		want         string // printed
	}{
		{name: "good", checked: 4, want: "(compact) good: "},
		{name: "twice", add: []ocispec.Descriptor{z, c}, checked: 4},
		{name: "of the other layer", add: []ocispec.Descriptor{listed(good.Layers[1], index.MediaTypeZTOC, layer)}, checked: 5, bad: 1,
			want: "layer " + layer.String() + " -> ztoc " + good.Layers[1].Digest.String() + " NOT good: verify span 0: "},
		{name: "of no layer", add: []ocispec.Descriptor{listed(c, index.MediaTypeCompact, digest.FromString("x"))}, checked: 5, bad: 1,
			want: "layer " + digest.FromString("x").String() + " -> ztoc " + c.Digest.String() + " NOT good: the image does not have the layer\n"},
		{name: "compact as 0.9", add: []ocispec.Descriptor{listed(c, index.MediaTypeZTOC, layer)}, checked: 5, bad: 1,
			want: " NOT good: its format is compact, and its index lists it as application/octet-stream\n"},
		{name: "0.9 as compact", add: []ocispec.Descriptor{listed(z, index.MediaTypeCompact, layer)}, checked: 5, bad: 1,
			want: " NOT good: its format is 0.9, and its index lists it as " + index.MediaTypeCompact + "\n"},
		{name: "something else", add: []ocispec.Descriptor{listed(z, "application/x", digest.FromString("x"))}, checked: 4},
	} {
		x := *good
		x.Layers = append(append([]ocispec.Descriptor(nil), good.Layers...), v.add...)
		p, desc, err := x.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		s.Add(desc.MediaType, p)
		m := m
		m.Annotations = map[string]string{index.AnnotationIndexDigest: desc.Digest.String()}
		var out bytes.Buffer
		e := &env{root: t.TempDir(), out: &output{w: &out}, err: io.Discard}
		got := &verification{env: e, p: e.progress(t.Context())}
		if err := got.manifest(t.Context(), imageSource{local: s}, put(m.MediaType, m)); err != nil {
			t.Fatal(err)
		}
		got.p.done()
		if got.checked != v.checked || got.bad != v.bad || !strings.Contains(out.String(), v.want) {
			t.Errorf("%s: %d checked, %d bad, want %d, %d with %q:\n%s", v.name, got.checked, got.bad, v.checked, v.bad, v.want, out.String())
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/index/indextest"
)

var errInjected = errors.New("injected")

// profiled is an index of three layers, the third with a compact zTOC alone, and the layers.
func profiled(t *testing.T, s *indextest.Store, version index.Version) (*index.Index, []digest.Digest) {
	t.Helper()
	image := s.Image(amd64,
		indextest.Layer{Content: gz(t, tarOf(t, 1, 300_000, "a", "b"))},
		indextest.Layer{Content: gz(t, tarOf(t, 2, 300_000, "c"))},
		indextest.Layer{Content: gz(t, tarOf(t, 3, 300_000, "d"))})
	opts := all()
	opts.CompactSpanSize = 64 << 10
	opts.Prefetch = []string{"a", "c"}
	x, _, err := index.Build(t.Context(), s, image, version, opts)
	if err != nil {
		t.Fatal(err)
	}
	var layers []digest.Digest
	for _, l := range decode[ocispec.Manifest](t, s, image).Layers {
		layers = append(layers, l.Digest)
	}
	x.Layers = slices.DeleteFunc(x.Layers, func(d ocispec.Descriptor) bool {
		return d.MediaType == index.MediaTypeZTOC && d.Annotations[index.AnnotationLayerDigest] == layers[2].String()
	})
	s.ForgetPushed()
	return x, layers
}

// sizeOf is the uncompressed size of a layer as its zTOCs say it.
func sizeOf(t *testing.T, s *indextest.Store, x *index.Index, layer digest.Digest) int64 {
	t.Helper()
	d, _ := x.Compact(layer)
	return must(index.ReadZTOC(t.Context(), s, d))(t).ZInfo().UncompressedSize
}

// TestAttach holds what is listed where when profiles are attached, again and of other layers, too.
func TestAttach(t *testing.T) {
	for _, version := range []index.Version{index.V1, index.V2} {
		s := new(indextest.Store)
		x, layers := profiled(t, s, version)
		const z, f, c, p = index.MediaTypeZTOC, index.MediaTypePrefetch, index.MediaTypeCompact, index.MediaTypeProfile
		if got, want := mediaTypes(x.Layers), []string{z, z, f, f, c, c, c}; !slices.Equal(got, want) {
			t.Fatalf("index of %v", got)
		}
		one := index.NewProfile(sizeOf(t, s, x, layers[1]), ranges(200_000, 10, 0, 10))
		y, desc, err := index.Attach(t.Context(), s, x, index.Profiles{layers[1]: one, digest.FromString("other"): one})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := mediaTypes(y.Layers), []string{z, z, f, f, c, c, c, p}; !slices.Equal(got, want) {
			t.Errorf("listed %v, want %v", got, want)
		}
		if got := must(index.Unmarshal(s.Bytes(desc.Digest)))(t); got.Version != version || !slices.Equal(mediaTypes(got.Layers), mediaTypes(y.Layers)) {
			t.Errorf("stored %+v", got)
		}
		if pushed := s.Pushed(); pushed[len(pushed)-1].Digest != desc.Digest {
			t.Errorf("pushed %v, not the index last", pushed)
		}
		d, _ := y.Profile(layers[1])
		if got := must(index.ReadProfile(t.Context(), s, d))(t); got.Size != one.Size || !slices.Equal(got.Ranges, one.Ranges) {
			t.Errorf("profile %+v", got)
		}
		zd, _ := y.ZTOC(layers[1])
		zinfo := must(index.ReadZTOC(t.Context(), s, zd))(t).ZInfo()
		fd, _ := y.Prefetch(layers[1])
		if got := must(index.ReadPrefetch(t.Context(), s, fd))(t); !slices.Equal(got.Spans, one.Prefetch(zinfo).Spans) || len(got.Spans) == 0 {
			t.Errorf("prefetch artifact %+v", got)
		}
		before, _ := x.Prefetch(layers[0])
		if after, _ := y.Prefetch(layers[0]); after.Digest != before.Digest {
			t.Error("the prefetch artifact of another layer has changed")
		}

		other := index.NewProfile(sizeOf(t, s, x, layers[2]), ranges(5, 1))
		again, _, err := index.Attach(t.Context(), s, y, index.Profiles{layers[2]: other, layers[1]: one})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := mediaTypes(again.Layers), []string{z, z, f, f, c, c, c, p, p}; !slices.Equal(got, want) {
			t.Errorf("listed %v, want %v", got, want)
		}
		if _, ok := again.Prefetch(layers[2]); ok {
			t.Error("a prefetch artifact of a layer without zTOC 0.9")
		}
	}
}

func TestAttachRefuses(t *testing.T) {
	s := new(indextest.Store)
	x, layers := profiled(t, s, index.V1)
	good := index.NewProfile(sizeOf(t, s, x, layers[0]), ranges(0, 1))
	if _, _, err := index.Attach(t.Context(), s, x, index.Profiles{dgstA: good}); !errors.Is(err, index.ErrNoProfile) {
		t.Errorf("no profile: %v", err)
	}
	if _, _, err := index.Attach(t.Context(), s, x, index.Profiles{layers[0]: {Size: 7, Ranges: ranges(0, 1)}}); err == nil {
		t.Error("a profile of another layer was attached")
	}
	z, _ := x.ZTOC(layers[0])
	s.Delete(z.Digest)
	if _, _, err := index.Attach(t.Context(), s, x, index.Profiles{layers[0]: good}); err == nil {
		t.Error("attached without zTOC")
	}
	if n := len(s.Pushed()); n != 0 {
		t.Errorf("%d blobs were pushed", n)
	}
}

// TestAttachImage holds that a converted image is bound to the index that has the profiles.
func TestAttachImage(t *testing.T) {
	s := new(indextest.Store)
	image := s.Index(
		s.Image(amd64, indextest.Layer{Content: gz(t, tarOf(t, 1, 300_000, "a"))}),
		s.Image(arm64, indextest.Layer{Content: gz(t, tarOf(t, 2, 300_000, "a"))}))
	opts := all()
	opts.CompactSpanSize = 64 << 10
	c, err := index.Convert(t.Context(), s, image, nil, opts)
	if err != nil {
		t.Fatal(err)
	}
	s.ForgetPushed()
	manifest := c.Platforms[1].Manifest
	layer := decode[ocispec.Manifest](t, s, manifest).Layers[0].Digest
	p := index.NewProfile(sizeOf(t, s, c.Platforms[1].Index, layer), ranges(0, 1))
	none := func(digest.Digest) (index.Profiles, error) { return nil, nil }
	if _, err := index.AttachImage(t.Context(), s, c.Index, nil, none); !errors.Is(err, index.ErrNoProfile) {
		t.Errorf("no profiles: %v", err)
	}
	fail := func(digest.Digest) (index.Profiles, error) { return nil, errInjected }
	if _, err := index.AttachImage(t.Context(), s, c.Index, nil, fail); !errors.Is(err, errInjected) {
		t.Errorf("error: %v", err)
	}
	if _, err := index.AttachImage(t.Context(), s, image, nil, none); !errors.Is(err, index.ErrNoProfile) {
		t.Errorf("image without index: %v", err)
	}
	got, err := index.AttachImage(t.Context(), s, c.Index, nil, func(m digest.Digest) (index.Profiles, error) {
		if m == manifest.Digest {
			return index.Profiles{layer: p}, nil
		}
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	x := checkConverted(t, s, got)
	if len(x.Manifests) != 4 || len(got.Platforms) != 1 || got.Platforms[0].Source.Digest != manifest.Digest {
		t.Fatalf("%d manifests, platforms %+v", len(x.Manifests), got.Platforms)
	}
	if x.Manifests[0].Digest != c.Platforms[0].Manifest.Digest || x.Manifests[1].Digest == manifest.Digest {
		t.Error("the wrong image manifest has changed")
	}
	if _, ok := got.Platforms[0].Index.Profile(layer); !ok {
		t.Error("the index has no profile")
	}
	if !bytes.Contains(s.Bytes(got.Index.Digest), []byte(c.Platforms[0].SOCI.Digest)) {
		t.Error("the other platform lost its index")
	}
}

// TestFindProfile holds that of several referrers one with a profile is found.
func TestFindProfile(t *testing.T) {
	s := new(indextest.Store)
	manifest := manifestWith(s, "")
	var plain []digest.Digest
	for _, tool := range []string{"a", "b", "c"} {
		plain = append(plain, put(t, s, bound(manifest, tool)).Digest)
	}
	slices.Sort(plain)
	find := func() digest.Digest {
		_, desc, err := index.Find(t.Context(), s, manifest.Digest, index.FindOptions{V1: true})
		if err != nil {
			t.Fatal(err)
		}
		return desc.Digest
	}
	if got := find(); got != plain[0] {
		t.Errorf("found %s, want %s", got, plain[0])
	}
	for _, tool := range []string{"d", "e", "f"} {
		x := bound(manifest, tool)
		x.Layers = append(x.Layers, ocispec.Descriptor{
			MediaType: index.MediaTypeProfile, Digest: dgstC, Size: 3, Annotations: map[string]string{index.AnnotationLayerDigest: dgstA.String()},
		})
		want := put(t, s, x).Digest
		if got := find(); got != want {
			t.Errorf("found %s, want %s", got, want)
		}
		s.Delete(want)
	}
}

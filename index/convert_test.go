// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/index/indextest"
)

var arm64 = ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}

// decode reads a document from the store.
func decode[T any](t *testing.T, s *indextest.Store, d ocispec.Descriptor) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(s.Bytes(d.Digest), &v); err != nil {
		t.Fatalf("%s: %v", d.Digest, err)
	}
	return v
}

// attestation adds an attestation of an image manifest, as BuildKit makes them, indented.
func attestation(s *indextest.Store, of ocispec.Descriptor) ocispec.Descriptor {
	layer := s.Add("application/vnd.in-toto+json", []byte(`{"subject":"`+of.Digest+`"}`))
	config := s.Add(ocispec.MediaTypeImageConfig, []byte(`{"architecture":"unknown","os":"unknown"}`))
	d := s.Add(ocispec.MediaTypeImageManifest, fmt.Appendf(nil, `{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.manifest.v1+json",
  "config": {"mediaType": "%s", "digest": "%s", "size": %d},
  "layers": [{"mediaType": "%s", "digest": "%s", "size": %d}]
}`, config.MediaType, config.Digest, config.Size, layer.MediaType, layer.Digest, layer.Size))
	d.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	d.Annotations = map[string]string{
		"vnd.docker.reference.type":   "attestation-manifest",
		"vnd.docker.reference.digest": of.Digest.String(),
	}
	return d
}

// checkConverted holds what is true of every converted image: the pieces name each other and are all there.
func checkConverted(t *testing.T, s *indextest.Store, c *index.Converted) ocispec.Index {
	t.Helper()
	x := decode[ocispec.Index](t, s, c.Index)
	if x.MediaType != ocispec.MediaTypeImageIndex || c.Index.MediaType != x.MediaType {
		t.Errorf("media type %q", x.MediaType)
	}
	listed := make(map[digest.Digest]ocispec.Descriptor)
	for _, d := range x.Manifests {
		listed[d.Digest] = d
	}
	for _, p := range c.Platforms {
		soci, ok := listed[p.SOCI.Digest]
		if !ok || soci.ArtifactType != index.MediaTypeV2 || soci.Annotations[index.AnnotationImageManifestDigest] != p.Manifest.Digest.String() ||
			platforms.Format(*soci.Platform) != platforms.Format(p.Platform) {
			t.Errorf("SOCI index %+v of %s", soci, p.Manifest.Digest)
		}
		image := listed[p.Manifest.Digest]
		if image.MediaType != ocispec.MediaTypeImageManifest || image.Annotations[index.AnnotationIndexDigest] != soci.Digest.String() {
			t.Errorf("image manifest %+v", image)
		}
		m := decode[ocispec.Manifest](t, s, image)
		if m.MediaType != ocispec.MediaTypeImageManifest || m.Config.MediaType != ocispec.MediaTypeImageConfig || !maps.Equal(m.Annotations, image.Annotations) {
			t.Errorf("image manifest %s", s.Bytes(image.Digest))
		}
		got, _, err := index.Find(t.Context(), s, p.Manifest.Digest, index.FindOptions{V2: true})
		if err != nil || len(got.Layers) != len(p.Index.Layers) || got.Version != index.V2 {
			t.Errorf("find index of %s: %v, %v", p.Manifest.Digest, got, err)
		}
	}
	checkWritten(t, s, c)
	s.ForgetPushed()
	return x
}

// checkWritten holds that Written has every manifest and index that was pushed, the image index last, and that all
// they refer to was there before.
func checkWritten(t *testing.T, s *indextest.Store, c *index.Converted) {
	t.Helper()
	written := make(map[digest.Digest]bool)
	for i, w := range c.Written {
		written[w.Desc.Digest] = true
		if last := i == len(c.Written)-1; last != (w.Desc.Digest == c.Index.Digest) || last != (w.Config.Digest == "") {
			t.Errorf("written %d of %d is %+v", i, len(c.Written), w)
		}
		if s.Bytes(w.Desc.Digest) == nil || len(w.Children) == 0 {
			t.Errorf("written %+v", w)
		}
	}
	for _, d := range s.Pushed() {
		if d.MediaType == ocispec.MediaTypeImageManifest && !written[d.Digest] {
			t.Errorf("pushed, but not in Written: %s", s.Bytes(d.Digest))
		}
	}
}

func TestConvertSingle(t *testing.T) {
	s := new(indextest.Store)
	manifest := s.Image(amd64, layer(t, 1), layer(t, 2))
	manifest.Platform = nil
	manifest.Annotations = map[string]string{"org.opencontainers.image.ref.name": "latest"}
	c, err := index.Convert(t.Context(), s, manifest, []ocispec.Platform{amd64}, all())
	if err != nil {
		t.Fatal(err)
	}
	x := checkConverted(t, s, c)
	if len(x.Manifests) != 2 || len(c.Platforms) != 1 || c.Platforms[0].Source.Digest != manifest.Digest {
		t.Errorf("converted %s", s.Bytes(c.Index.Digest))
	}
	if _, err := index.Convert(t.Context(), s, manifest, []ocispec.Platform{arm64}, all()); !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), "linux/arm64") {
		t.Errorf("a platform that is not there: %v", err)
	}
}

// TestConvertDocker holds that a docker image becomes an OCI one, its layers as they are.
func TestConvertDocker(t *testing.T) {
	s := new(indextest.Store)
	m := decode[ocispec.Manifest](t, s, s.Image(amd64, indextest.Layer{Content: layer(t, 1).Content, MediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip"}))
	m.MediaType = "application/vnd.docker.distribution.manifest.v2+json"
	m.Config.MediaType = "application/vnd.docker.container.image.v1+json"
	desc := s.Add(m.MediaType, must(json.Marshal(m))(t))
	desc.Platform = &amd64
	list := s.Add("application/vnd.docker.distribution.manifest.list.v2+json", must(json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json", "manifests": []ocispec.Descriptor{desc},
	}))(t))
	c, err := index.Convert(t.Context(), s, list, nil, all())
	if err != nil {
		t.Fatal(err)
	}
	x := checkConverted(t, s, c)
	got := decode[ocispec.Manifest](t, s, x.Manifests[0])
	if got.Layers[0].MediaType != m.Layers[0].MediaType {
		t.Errorf("layer media type %s", got.Layers[0].MediaType)
	}
}

// TestConvertMulti converts one platform, then the other, then both again.
func TestConvertMulti(t *testing.T) {
	s := new(indextest.Store)
	amd, arm := s.Image(amd64, layer(t, 1)), s.Image(arm64, layer(t, 2))
	missing := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: dgstA, Size: 5, Platform: &ocispec.Platform{OS: "linux", Architecture: "s390x"}}
	att := attestation(s, amd)
	image := s.Index(amd, arm, missing, att)

	list := must(index.Manifests(t.Context(), s, image))(t)
	if len(list) != 3 || list[0].Missing || list[1].Missing || !list[2].Missing || list[1].Platform.Architecture != "arm64" {
		t.Errorf("manifests %+v", list)
	}
	if _, err := index.Convert(t.Context(), s, image, []ocispec.Platform{*missing.Platform}, all()); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("missing platform: %v", err)
	}

	one, err := index.Convert(t.Context(), s, image, []ocispec.Platform{{OS: "linux", Architecture: "arm64"}}, all())
	if err != nil {
		t.Fatal(err)
	}
	x := checkConverted(t, s, one)
	if len(x.Manifests) != 5 || len(one.Platforms) != 1 {
		t.Fatalf("converted %s", s.Bytes(one.Index.Digest))
	}
	if x.Manifests[0].Digest != amd.Digest || x.Manifests[2].Digest != missing.Digest {
		t.Errorf("what was not asked for changed: %s", s.Bytes(one.Index.Digest))
	}
	if x.Manifests[3].Digest != att.Digest || !maps.Equal(x.Manifests[3].Annotations, att.Annotations) {
		t.Errorf("attestation %+v, was %+v", x.Manifests[3], att)
	}

	both, err := index.Convert(t.Context(), s, one.Index, []ocispec.Platform{amd64}, all())
	if err != nil {
		t.Fatal(err)
	}
	x = checkConverted(t, s, both)
	// The arm64 part is as it was; the attestation names the new amd64 manifest.
	if len(x.Manifests) != 6 || x.Manifests[1].Digest != one.Platforms[0].Manifest.Digest || x.Manifests[4].Digest != one.Platforms[0].SOCI.Digest {
		t.Errorf("converted %s", s.Bytes(both.Index.Digest))
	}
	if got := x.Manifests[3]; got.Digest != att.Digest || got.Annotations["vnd.docker.reference.digest"] != both.Platforms[0].Manifest.Digest.String() {
		t.Errorf("attestation %+v", got)
	}
	if list := must(index.Manifests(t.Context(), s, both.Index))(t); len(list) != 3 {
		t.Errorf("manifests %+v", list)
	}
	for _, targets := range [][]ocispec.Platform{nil, {arm64, amd64, arm64}, {arm64}} {
		again, err := index.Convert(t.Context(), s, both.Index, targets, all())
		if err != nil {
			t.Fatal(err)
		}
		checkConverted(t, s, again)
		if again.Index.Digest != both.Index.Digest {
			t.Errorf("again for %v: %s", targets, s.Bytes(again.Index.Digest))
		}
	}
}

// TestConvertNewOptions holds that converting again with another span size replaces the SOCI index in place.
func TestConvertNewOptions(t *testing.T) {
	s := new(indextest.Store)
	image := s.Index(s.Image(amd64, layer(t, 1)), s.Image(arm64, layer(t, 2)))
	first, err := index.Convert(t.Context(), s, image, nil, all())
	if err != nil {
		t.Fatal(err)
	}
	before := checkConverted(t, s, first)
	opts := all()
	opts.ZTOC.SpanSize = 1 << 20
	second, err := index.Convert(t.Context(), s, first.Index, []ocispec.Platform{amd64}, opts)
	if err != nil {
		t.Fatal(err)
	}
	after := checkConverted(t, s, second)
	for i, same := range []bool{false, true, false, true} {
		if (before.Manifests[i].Digest == after.Manifests[i].Digest) != same {
			t.Errorf("manifest %d: %s, then %s", i, before.Manifests[i].Digest, after.Manifests[i].Digest)
		}
	}
}

// TestConvertKeepsUnknown holds that fields which the image-spec does not know survive.
func TestConvertKeepsUnknown(t *testing.T) {
	s := new(indextest.Store)
	plain := s.Image(amd64, layer(t, 1))
	text := strings.Replace(string(s.Bytes(plain.Digest)), `"size":`, `"zeta":[1.50,"<"],"alpha":{"x":null},"size":`, 1)
	text = strings.Replace(text, `{`, `{"future":9007199254740993,`, 1)
	m := s.Add(ocispec.MediaTypeImageManifest, []byte(text))
	image := s.Add(ocispec.MediaTypeImageIndex, fmt.Appendf(nil,
		`{"x-top":true,"schemaVersion":2,"annotations":{"a":"b"},"manifests":[{"x-desc":"y","mediaType":%q,"digest":%q,"size":%d,"platform":{"os":"linux","architecture":"amd64"}}]}`,
		m.MediaType, m.Digest, m.Size))
	c, err := index.Convert(t.Context(), s, image, nil, all())
	if err != nil {
		t.Fatal(err)
	}
	checkConverted(t, s, c)
	top, sub := string(s.Bytes(c.Index.Digest)), string(s.Bytes(c.Platforms[0].Manifest.Digest))
	for _, want := range []string{`,"annotations":{"a":"b"},"x-top":true}`, `"platform":{"architecture":"amd64","os":"linux"},"x-desc":"y"}`} {
		if !strings.Contains(top, want) {
			t.Errorf("no %s in %s", want, top)
		}
	}
	for _, want := range []string{`,"alpha":{"x":null},"zeta":[1.50,"\u003c"]}`, `,"future":9007199254740993}`} {
		if !strings.Contains(sub, want) {
			t.Errorf("no %s in %s", want, sub)
		}
	}
}

// TestConvertLeavesAlone holds that what is not an image is not rewritten.
func TestConvertLeavesAlone(t *testing.T) {
	s := new(indextest.Store)
	img := s.Image(amd64, layer(t, 1))
	chart := s.Add(ocispec.MediaTypeImageManifest, []byte(`{ "schemaVersion":2, "config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"`+emptyDigest+`","size":2},"layers":[]}`))
	noPlatform := s.Image(ocispec.Platform{}, layer(t, 3))
	noPlatform.Platform = nil
	byConfig := s.Image(arm64, layer(t, 2))
	byConfig.Platform = nil
	other := ocispec.Descriptor{MediaType: "application/vnd.example", Digest: dgstB, Size: 3}
	absent := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: dgstC, Size: 3}
	rest := []ocispec.Descriptor{chart, noPlatform, other, absent}
	image := s.Index(append(slices.Clone(rest), byConfig, img)...)
	c, err := index.Convert(t.Context(), s, image, nil, all())
	if err != nil {
		t.Fatal(err)
	}
	x := checkConverted(t, s, c)
	for i, d := range rest {
		if x.Manifests[i].Digest != d.Digest || x.Manifests[i].MediaType != d.MediaType {
			t.Errorf("manifest %d: %+v, was %+v", i, x.Manifests[i], d)
		}
	}
	if len(c.Platforms) != 2 || c.Platforms[0].Platform.Architecture != "arm64" || x.Manifests[4].Platform != nil {
		t.Errorf("platforms %+v", c.Platforms)
	}
}

func TestConvertNested(t *testing.T) {
	s := new(indextest.Store)
	image := s.Index(s.Index(s.Image(amd64, layer(t, 1))), s.Image(arm64, layer(t, 2)))
	c, err := index.Convert(t.Context(), s, image, nil, all())
	if err != nil {
		t.Fatal(err)
	}
	if x := checkConverted(t, s, c); len(x.Manifests) != 4 || len(c.Platforms) != 2 {
		t.Errorf("converted %s", s.Bytes(c.Index.Digest))
	}
	deep := s.Image(amd64, layer(t, 1))
	for range 6 {
		deep = s.Index(deep)
	}
	if _, err := index.Manifests(t.Context(), s, deep); !errors.Is(err, index.ErrFormat) {
		t.Errorf("nested too deep: %v", err)
	}
	wide := s.Index(make([]ocispec.Descriptor, 300)...)
	if _, err := index.Manifests(t.Context(), s, wide); !errors.Is(err, index.ErrFormat) {
		t.Errorf("too many manifests: %v", err)
	}
	large := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: dgstA, Size: index.MaxManifestSize, Platform: &amd64}
	if list, err := index.Manifests(t.Context(), s, s.Index(large, large, large, large)); err != nil || len(list) != 4 {
		t.Errorf("4 of 8 MiB: %v, %v", list, err)
	}
	if _, err := index.Manifests(t.Context(), s, s.Index(large, large, s.Index(large, large, large))); !errors.Is(err, index.ErrFormat) {
		t.Errorf("5 of 8 MiB: %v", err)
	}
	bomb := s.Index() // a tree of 256 to the third, without leaves
	for range 3 {
		bomb = s.Index(slices.Repeat([]ocispec.Descriptor{bomb}, 256)...)
	}
	fetched := 0
	s.OnFetch = func(ocispec.Descriptor) error { fetched++; return nil }
	if _, err := index.Manifests(t.Context(), s, bomb); !errors.Is(err, index.ErrFormat) || fetched > 300 {
		t.Errorf("bomb: %d fetched, %v", fetched, err)
	}
}

// TestConvertSkips holds that a platform without large layers is left out, and that all of them is an error.
func TestConvertSkips(t *testing.T) {
	s := new(indextest.Store)
	small := indextest.Layer{Content: gz(t, tarOf(t, 5, 10, "tiny"))}
	image := s.Index(s.Image(amd64, small), s.Image(arm64, layer(t, 2)))
	opts := all()
	opts.MinLayerSize = int64(len(small.Content)) + 1
	c, err := index.Convert(t.Context(), s, image, nil, opts)
	if err != nil {
		t.Fatal(err)
	}
	if x := checkConverted(t, s, c); len(x.Manifests) != 3 || len(c.Platforms) != 1 {
		t.Errorf("converted %s", s.Bytes(c.Index.Digest))
	}
	before := len(s.Pushed())
	if _, err := index.Convert(t.Context(), s, image, []ocispec.Platform{amd64}, opts); !errors.Is(err, index.ErrNoZTOCs) {
		t.Errorf("error %v", err)
	}
	if len(s.Pushed()) != before {
		t.Error("pushed something")
	}
}

// TestConvertNothingPushed holds that one broken platform leaves the store as it was.
func TestConvertNothingPushed(t *testing.T) {
	s := new(indextest.Store)
	broken := layer(t, 2)
	image := s.Index(s.Image(amd64, layer(t, 1)), s.Image(arm64, broken))
	s.Replace(digest.FromBytes(broken.Content), broken.Content[:1000])
	if _, err := index.Convert(t.Context(), s, image, nil, all()); !errors.Is(err, index.ErrDigest) {
		t.Errorf("error %v", err)
	}
	if p := s.Pushed(); len(p) != 0 {
		t.Errorf("pushed %v", p)
	}
}

func TestConvertRefuses(t *testing.T) {
	s := new(indextest.Store)
	if _, err := index.Convert(t.Context(), s, s.Index(), nil, all()); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("empty image index: %v", err)
	}
	artifact := s.Add(ocispec.MediaTypeImageManifest, []byte(doc(2, "")))
	if _, err := index.Convert(t.Context(), s, artifact, nil, all()); err == nil {
		t.Error("SOCI index converted")
	}
	if _, err := index.Convert(t.Context(), s, s.Add("application/vnd.docker.distribution.manifest.v1+prettyjws", []byte("{}")), nil, all()); err == nil {
		t.Error("schema 1 converted")
	}
	if _, err := index.Convert(t.Context(), s, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: dgstA, Size: 4}, nil, all()); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("missing: %v", err)
	}
	broken := s.Add(ocispec.MediaTypeImageIndex, []byte(`{"manifests":3}`))
	if _, err := index.Convert(t.Context(), s, broken, nil, all()); !errors.Is(err, index.ErrFormat) {
		t.Errorf("broken image index: %v", err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/index/indextest"
)

// put adds an index to the store.
func put(t *testing.T, s *indextest.Store, x *index.Index) ocispec.Descriptor {
	t.Helper()
	p, _, err := x.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return s.Add(ocispec.MediaTypeImageManifest, p)
}

// bound returns a v1 index of a manifest, one that tool tells apart from others.
func bound(manifest ocispec.Descriptor, tool string) *index.Index {
	x := sample(index.V1)
	x.Subject = &ocispec.Descriptor{MediaType: manifest.MediaType, Digest: manifest.Digest, Size: manifest.Size}
	x.BuildTool = tool
	return x
}

// manifestWith adds an image manifest with annotations.
func manifestWith(s *indextest.Store, annotations string) ocispec.Descriptor {
	return s.Add(ocispec.MediaTypeImageManifest, fmt.Appendf(nil,
		`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},"layers":[],"annotations":{%s}}`,
		emptyDigest, annotations))
}

func named(d digest.Digest) string { return fmt.Sprintf("%q:%q", index.AnnotationIndexDigest, d) }

func TestFindOrder(t *testing.T) {
	s := new(indextest.Store)
	v2 := put(t, s, sample(index.V2))
	explicit := put(t, s, bound(ocispec.Descriptor{MediaType: "a/b", Digest: dgstA, Size: 1}, "explicit"))
	both := manifestWith(s, named(v2.Digest))
	v1 := put(t, s, bound(both, ""))
	none := manifestWith(s, "")
	dangling := manifestWith(s, named(dgstC))
	put(t, s, bound(dangling, ""))
	evil := manifestWith(s, named("sha256:../../x"))
	put(t, s, bound(evil, ""))
	notIndex := manifestWith(s, named(none.Digest))
	put(t, s, bound(notIndex, ""))

	for name, c := range map[string]struct {
		manifest ocispec.Descriptor
		opts     index.FindOptions
		want     digest.Digest
		err      error
	}{
		"v2 before v1":            {both, index.FindOptions{V1: true, V2: true}, v2.Digest, nil},
		"v1 alone":                {both, index.FindOptions{V1: true}, v1.Digest, nil},
		"v2 alone":                {both, index.FindOptions{V2: true}, v2.Digest, nil},
		"nothing":                 {both, index.FindOptions{}, "", index.ErrNone},
		"explicit, nothing else":  {both, index.FindOptions{Digest: explicit.Digest}, explicit.Digest, nil},
		"explicit first":          {both, index.FindOptions{Digest: explicit.Digest, V1: true, V2: true}, explicit.Digest, nil},
		"explicit gone":           {both, index.FindOptions{Digest: dgstC, V1: true, V2: true}, "", errdefs.ErrNotFound},
		"explicit malformed":      {both, index.FindOptions{Digest: "x", V1: true, V2: true}, "", digest.ErrDigestInvalidFormat},
		"explicit not an index":   {both, index.FindOptions{Digest: none.Digest}, "", index.ErrFormat},
		"none":                    {none, index.FindOptions{V1: true, V2: true}, "", index.ErrNone},
		"dangling, v1 there":      {dangling, index.FindOptions{V1: true, V2: true}, "", errdefs.ErrNotFound},
		"malformed, v1 there":     {evil, index.FindOptions{V1: true, V2: true}, "", digest.ErrDigestInvalidLength},
		"names a manifest":        {notIndex, index.FindOptions{V1: true, V2: true}, "", index.ErrFormat},
		"manifest gone":           {ocispec.Descriptor{Digest: dgstA}, index.FindOptions{V1: true, V2: true}, "", errdefs.ErrNotFound},
		"manifest gone, v1":       {ocispec.Descriptor{Digest: dgstB}, index.FindOptions{V1: true}, "", index.ErrNone},
		"no digest":               {ocispec.Descriptor{Digest: "latest"}, index.FindOptions{V1: true}, "", digest.ErrDigestInvalidFormat},
		"manifest given":          {both, index.FindOptions{V2: true, Manifest: s.Bytes(both.Digest)}, v2.Digest, nil},
		"another manifest given":  {both, index.FindOptions{V2: true, Manifest: s.Bytes(none.Digest)}, "", index.ErrDigest},
		"an empty manifest given": {both, index.FindOptions{V2: true, Manifest: []byte{}}, "", index.ErrDigest},

		"bound, v2":             {both, index.FindOptions{V1: true, V2: true, Bound: true}, v2.Digest, nil},
		"bound, v1":             {both, index.FindOptions{V1: true, Bound: true}, "", index.ErrUnbound},
		"bound, not named":      {none, index.FindOptions{V1: true, V2: true, Bound: true}, "", index.ErrUnbound},
		"bound, none":           {none, index.FindOptions{V2: true, Bound: true}, "", index.ErrNone},
		"bound, explicit":       {both, index.FindOptions{Digest: explicit.Digest, Bound: true}, "", index.ErrUnbound},
		"bound, explicit named": {both, index.FindOptions{Digest: v2.Digest, Bound: true}, v2.Digest, nil},
		"bound, v1 explicit":    {none, index.FindOptions{Digest: v1.Digest, V1: true, V2: true, Bound: true}, "", index.ErrUnbound},
		"just large enough":     {both, index.FindOptions{V2: true, MaxSize: v2.Size}, v2.Digest, nil},
		"too large":             {both, index.FindOptions{V2: true, MaxSize: v2.Size - 1}, "", index.ErrSize},
		"too large, explicit":   {both, index.FindOptions{Digest: explicit.Digest, MaxSize: explicit.Size - 1}, "", index.ErrSize},
		"too large, v1":         {both, index.FindOptions{V1: true, MaxSize: v1.Size - 1}, "", index.ErrNone},
	} {
		x, desc, err := index.Find(t.Context(), s, c.manifest.Digest, c.opts)
		switch {
		case !errors.Is(err, c.err):
			t.Errorf("%s: error %v, want %v", name, err, c.err)
		case c.err != nil && (x != nil || errors.Is(err, index.ErrNone) != (c.err == index.ErrNone) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%s: %v, error %v", name, x, err)
		case c.err == nil && (desc.Digest != c.want || desc.Size == 0 || desc.ArtifactType != x.Version.ArtifactType()):
			t.Errorf("%s: found %+v, want %s", name, desc, c.want)
		}
	}
}

// TestFindGivenManifest holds that a manifest at hand is not fetched again.
func TestFindGivenManifest(t *testing.T) {
	s := new(indextest.Store)
	v2 := put(t, s, sample(index.V2))
	manifest := manifestWith(s, named(v2.Digest))
	p := s.Bytes(manifest.Digest)
	s.Delete(manifest.Digest)
	_, desc, err := index.Find(t.Context(), s, manifest.Digest, index.FindOptions{V1: true, V2: true, Manifest: p})
	if err != nil || desc.Digest != v2.Digest {
		t.Errorf("found %v, %v", desc, err)
	}
}

// listing is a store whose list of referrers is the test's.
type listing struct {
	*indextest.Store
	list []ocispec.Descriptor
	err  error
}

func (l listing) Referrers(context.Context, ocispec.Descriptor, string) ([]ocispec.Descriptor, error) {
	return l.list, l.err
}

// TestFindReferrers holds which of several v1 indexes is taken, however the registry orders them.
func TestFindReferrers(t *testing.T) {
	s := new(indextest.Store)
	manifest := manifestWith(s, "")
	var good []ocispec.Descriptor
	for i := range 5 {
		good = append(good, put(t, s, bound(manifest, fmt.Sprint("tool ", i))))
	}
	slices.SortFunc(good, func(a, b ocispec.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	for i := range good {
		list := slices.Concat(good[i:], good[:i])
		_, desc, err := index.Find(t.Context(), listing{Store: s, list: list}, manifest.Digest, index.FindOptions{V1: true})
		if err != nil || desc.Digest != good[0].Digest {
			t.Errorf("found %v, %v", desc.Digest, err)
		}
		if list[0].Digest != good[i].Digest {
			t.Fatal("the caller's list was sorted")
		}
	}
}

// TestFindReferrersBad holds that referrers which are no index of this image are passed over, and that the answer
// "none" is not given when an index could not be fetched.
func TestFindReferrersBad(t *testing.T) {
	s := new(indextest.Store)
	manifest := manifestWith(s, "")
	other := put(t, s, bound(ocispec.Descriptor{MediaType: "a/b", Digest: dgstA, Size: 1}, ""))
	malformed := s.Add(ocispec.MediaTypeImageManifest, []byte("{}"))
	damaged := put(t, s, bound(manifest, "damaged"))
	s.Replace(damaged.Digest, []byte("x"))
	gone := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: dgstB, Size: 1}
	large := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: dgstC, Size: index.MaxSize + 1}
	hostile := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: "x", Size: -1}
	v2 := put(t, s, sample(index.V2))
	bad := []ocispec.Descriptor{other, malformed, damaged, gone, v2}
	good := put(t, s, bound(manifest, ""))

	find := func(list []ocispec.Descriptor, err error) (ocispec.Descriptor, error) {
		_, desc, err := index.Find(t.Context(), listing{s, list, err}, manifest.Digest, index.FindOptions{V1: true, V2: true})
		return desc, err
	}
	if desc, err := find(append(slices.Clone(bad), large, hostile, good), nil); err != nil || desc.Digest != good.Digest {
		t.Errorf("found %v, %v", desc, err)
	}
	if _, err := find(bad, nil); !errors.Is(err, index.ErrNone) || !strings.Contains(err.Error(), "5 referrers") {
		t.Errorf("only bad ones: %v", err)
	}
	if _, err := find(nil, fmt.Errorf("referrers: %w", errdefs.ErrNotFound)); !errors.Is(err, index.ErrNone) {
		t.Errorf("no referrers: %v", err)
	}
	down := errors.New("registry down")
	if _, err := find(nil, down); !errors.Is(err, down) || errors.Is(err, index.ErrNone) {
		t.Errorf("referrers fail: %v", err)
	}
	s.OnFetch = func(d ocispec.Descriptor) error {
		if d.Digest == good.Digest {
			return down
		}
		return nil
	}
	if _, err := find(append(slices.Clone(bad), good), nil); !errors.Is(err, down) || errors.Is(err, index.ErrNone) {
		t.Errorf("fetch fails: %v", err)
	}
	many := make([]ocispec.Descriptor, 1000)
	fetched := 0
	for i := range many {
		many[i] = ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString(fmt.Sprint(i)), Size: 1}
	}
	s.OnFetch = func(ocispec.Descriptor) error { fetched++; return nil }
	if _, err := find(many, nil); !errors.Is(err, index.ErrNone) || fetched > 20 {
		t.Errorf("%d fetched: %v", fetched, err)
	}
}

// stalling is a store that does not answer for one content.
type stalling struct {
	listing
	d digest.Digest
}

func (s stalling) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if desc.Digest == s.d {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.listing.Fetch(ctx, desc)
}

// TestFindStalled holds that an index in hand does not wait for those that may be better.
func TestFindStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(indextest.Store)
		manifest := manifestWith(s, "")
		list := []ocispec.Descriptor{put(t, s, bound(manifest, "a")), put(t, s, bound(manifest, "b"))}
		slices.SortFunc(list, func(a, b ocispec.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		remote := stalling{listing{Store: s, list: list}, list[1].Digest}
		if _, desc, err := index.Find(ctx, remote, manifest.Digest, index.FindOptions{V1: true}); err != nil || desc.Digest != list[0].Digest {
			t.Errorf("found %v, %v", desc.Digest, err)
		}
		if end, _ := ctx.Deadline(); time.Until(end) < 25*time.Second {
			t.Error("waited for long")
		}
	})
}

func TestFindCancelled(t *testing.T) {
	s := new(indextest.Store)
	manifest := manifestWith(s, "")
	put(t, s, bound(manifest, ""))
	ctx, cancel := context.WithCancel(t.Context())
	s.OnFetch = func(ocispec.Descriptor) error { cancel(); return ctx.Err() }
	if _, _, err := index.Find(ctx, s, manifest.Digest, index.FindOptions{V1: true}); !errors.Is(err, context.Canceled) || errors.Is(err, index.ErrNone) {
		t.Errorf("error %v", err)
	}
}

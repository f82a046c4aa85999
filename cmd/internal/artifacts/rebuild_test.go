// SPDX-License-Identifier: Apache-2.0

package artifacts_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/seekoci/seekoci/cmd/internal/artifacts"
	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/index/indextest"
)

// contents are blobs in memory.
type contents struct {
	*indextest.Store
	blobs   []ocispec.Descriptor
	walkErr error
}

func (c *contents) add(mediaType string, p []byte) ocispec.Descriptor {
	d := c.Add(mediaType, p)
	c.blobs = append(c.blobs, d)
	return d
}

func (c *contents) Blobs(context.Context) iter.Seq2[ocispec.Descriptor, error] {
	return func(yield func(ocispec.Descriptor, error) bool) {
		for _, d := range c.blobs {
			if !yield(ocispec.Descriptor{Digest: d.Digest, Size: d.Size}, nil) {
				return
			}
		}
		if c.walkErr != nil {
			yield(ocispec.Descriptor{}, c.walkErr)
		}
	}
}

// addIndex adds an index of one zTOC and one prefetch artifact.
func (c *contents) addIndex(t *testing.T, v index.Version, subject *ocispec.Descriptor) (x, z, p ocispec.Descriptor) {
	t.Helper()
	z = c.add(index.MediaTypeZTOC, fmt.Appendf(nil, "zTOC of v%d", v))
	p = c.add(index.MediaTypePrefetch, fmt.Appendf(nil, `{"version":"1.0","v":%d}`, v))
	z.Annotations = map[string]string{index.AnnotationLayerDigest: layer.String(), index.AnnotationSpanSize: "4194304"}
	p.Annotations = map[string]string{index.AnnotationLayerDigest: layer.String()}
	gone := ocispec.Descriptor{MediaType: index.MediaTypeZTOC, Digest: dgstB, Size: 9, Annotations: z.Annotations}
	b, _, err := (&index.Index{Version: v, Subject: subject, Layers: []ocispec.Descriptor{z, p, gone}}).Marshal()
	must(t, err)
	return c.add(ocispec.MediaTypeImageManifest, b), z, p
}

func TestRebuild(t *testing.T) {
	db := newDB(t)
	c := &contents{Store: new(indextest.Store)}
	x1, z1, p1 := c.addIndex(t, index.V1, &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: image, Size: 5})
	x2, z2, p2 := c.addIndex(t, index.V2, nil)
	manifest := c.add(ocispec.MediaTypeImageManifest, fmt.Appendf(nil,
		`{"schemaVersion":2,"layers":[{}],"annotations":{%q:%q}}`, index.AnnotationIndexDigest, x2.Digest))
	c.add("", []byte("{"))
	c.Delete(c.add("", []byte("{ removed meanwhile }")).Digest)
	c.add("", nil)
	c.add("", []byte("no JSON"))
	big := ocispec.Descriptor{Digest: digest.FromString("big"), Size: 10 << 30}
	c.blobs = append(c.blobs, big)
	c.OnFetch = func(d ocispec.Descriptor) error {
		if d.Digest == big.Digest {
			t.Error("a large blob was opened")
		}
		return nil
	}
	old := ztocEntry(z1.Digest, time.Hour)
	must(t, db.Add(old, ztocEntry(dgstA, 0)))

	images := map[digest.Digest]artifacts.Image{image: {Digest: target, Platform: "linux/amd64"}}
	done, err := db.Rebuild(t.Context(), c, images)
	must(t, err)
	if done != (artifacts.Rebuilt{Removed: 1, Added: 5}) {
		t.Errorf("done %+v", done)
	}
	if got, err := db.Get(z1.Digest); err != nil || got != old {
		t.Errorf("an entry that was there: %+v, %v", got, err)
	}
	for d, want := range map[digest.Digest]artifacts.Entry{
		x1.Digest: {Size: x1.Size, OriginalDigest: image, ImageDigest: target, Platform: "linux/amd64", Type: artifacts.TypeIndex, MediaType: x1.MediaType, ArtifactType: index.MediaTypeV1},
		x2.Digest: {Size: x2.Size, OriginalDigest: manifest.Digest, Type: artifacts.TypeIndex, MediaType: x1.MediaType, ArtifactType: index.MediaTypeV2},
		z2.Digest: {Size: z2.Size, SpanSize: 4194304, OriginalDigest: layer, Type: artifacts.TypeZTOC, MediaType: index.MediaTypeZTOC},
		p1.Digest: {Size: p1.Size, OriginalDigest: layer, Type: artifacts.TypePrefetch, MediaType: index.MediaTypePrefetch},
		p2.Digest: {Size: p2.Size, OriginalDigest: layer, Type: artifacts.TypePrefetch, MediaType: index.MediaTypePrefetch},
	} {
		got, err := db.Get(d)
		want.Digest, want.CreatedAt = d, got.CreatedAt
		if err != nil || got != want || got.CreatedAt.IsZero() {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	if done, err := db.Rebuild(t.Context(), c, images); err != nil || done != (artifacts.Rebuilt{}) {
		t.Errorf("again: %+v, %v", done, err)
	}
}

// TestRebuildMeanwhile holds that an entry stays which another command adds, with its blob, while blobs are walked.
func TestRebuildMeanwhile(t *testing.T) {
	db := newDB(t)
	must(t, db.Add(ztocEntry(dgstA, 0)))
	c := &contents{Store: new(indextest.Store)}
	c.add("", []byte("{}"))
	c.OnFetch = func(ocispec.Descriptor) error { return db.Add(ztocEntry(dgstB, 0)) }
	if done, err := db.Rebuild(t.Context(), c, nil); err != nil || done != (artifacts.Rebuilt{Removed: 1}) {
		t.Errorf("done %+v, %v", done, err)
	}
	if _, err := db.Get(dgstB); err != nil {
		t.Error(err)
	}
}

// TestRebuildRepairs holds that damaged entries are replaced, or removed with their blobs.
func TestRebuildRepairs(t *testing.T) {
	db := newDB(t)
	c := &contents{Store: new(indextest.Store)}
	_, z, _ := c.addIndex(t, index.V1, &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: image, Size: 5})
	must(t, db.Add(ztocEntry(z.Digest, 0), ztocEntry(dgstA, 0)))
	raw(t, db, func(tx *bolt.Tx) error {
		root := tx.Bucket([]byte("soci_artifacts"))
		must(t, root.Bucket([]byte(dgstA)).Put([]byte("size"), []byte{0xff}))
		return root.Bucket([]byte(z.Digest)).Put([]byte("created_at"), []byte("today"))
	})
	if done, err := db.Rebuild(t.Context(), c, nil); err != nil || done != (artifacts.Rebuilt{Removed: 1, Added: 3}) {
		t.Errorf("done %+v, %v", done, err)
	}
	if list, err := db.List(); err != nil || len(list) != 3 {
		t.Errorf("list %v, %v", list, err)
	}
	if e, err := db.ZTOC(layer, index.MediaTypeZTOC, 1<<22); err != nil || e.Digest != z.Digest {
		t.Errorf("zTOC %v, %v", e, err)
	}
}

// TestRebuildFails holds that a store which cannot be read costs no entry.
func TestRebuildFails(t *testing.T) {
	down := errors.New("input/output error")
	db := newDB(t)
	must(t, db.Add(ztocEntry(dgstA, 0)))
	walk := &contents{Store: new(indextest.Store), walkErr: down}
	open := &contents{Store: &indextest.Store{OnFetch: func(ocispec.Descriptor) error { return down }}}
	open.add("", []byte("{}"))
	read := &contents{Store: &indextest.Store{WrapReader: func(_ ocispec.Descriptor, r io.ReadCloser) io.ReadCloser {
		return io.NopCloser(io.MultiReader(io.LimitReader(r, 1), failing{down}))
	}}}
	read.add("", []byte("{}"))
	for name, c := range map[string]*contents{"walk": walk, "open": open, "read": read} {
		if _, err := db.Rebuild(t.Context(), c, nil); !errors.Is(err, down) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := db.Get(dgstA); err != nil {
			t.Errorf("%s: entry gone: %v", name, err)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

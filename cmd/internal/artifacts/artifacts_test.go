// SPDX-License-Identifier: Apache-2.0

package artifacts_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/cmd/internal/artifacts"
	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/index/indextest"
)

var (
	dgstA  = digest.FromString("a")
	dgstB  = digest.FromString("b")
	layer  = digest.FromString("layer")
	image  = digest.FromString("image")
	target = digest.FromString("target")
	day    = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newDB(t *testing.T) artifacts.DB {
	return artifacts.DB{Path: filepath.Join(t.TempDir(), "artifacts.db"), Timeout: 100 * time.Millisecond}
}

// TestFullDisk holds that a disk without room for a new file keeps no piece of one.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts a small tmpfs")
	}
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8k"))
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	db := artifacts.DB{Path: filepath.Join(dir, "artifacts.db")}
	if err := db.Add(ztocEntry(dgstA, 0)); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), db.Path) {
		t.Errorf("error %v", err)
	}
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left %v", left)
	}
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT, "size=1m"))
	must(t, db.Add(ztocEntry(dgstA, 0)))
}

func ztocEntry(dgst digest.Digest, age time.Duration) artifacts.Entry {
	return artifacts.Entry{
		Digest: dgst, Size: 300, SpanSize: 1 << 22, OriginalDigest: layer,
		Type: artifacts.TypeZTOC, MediaType: index.MediaTypeZTOC, CreatedAt: day.Add(-age),
	}
}

func indexEntry(dgst digest.Digest, v index.Version, age time.Duration) artifacts.Entry {
	return artifacts.Entry{
		Digest: dgst, Size: 1 << 40, OriginalDigest: image, ImageDigest: target, Platform: "linux/arm64/v8", Type: artifacts.TypeIndex,
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: v.ArtifactType(), CreatedAt: day.Add(-age),
	}
}

// raw opens the file as another program does.
func raw(t *testing.T, db artifacts.DB, do func(*bolt.Tx) error) {
	t.Helper()
	b, err := bolt.Open(db.Path, 0o600, nil)
	must(t, err)
	must(t, b.Update(do))
	must(t, b.Close())
}

func TestAddGet(t *testing.T) {
	db := newDB(t)
	want := []artifacts.Entry{ztocEntry(dgstA, 0), indexEntry(dgstB, index.V1, time.Hour)}
	must(t, db.Add(want...))
	for _, e := range want {
		got, err := db.Get(e.Digest)
		if err != nil || got != e {
			t.Errorf("got %+v, %v; want %+v", got, err, e)
		}
		if got.IsIndex() != (e.Type == artifacts.TypeIndex) {
			t.Errorf("%+v: IsIndex %t", got, got.IsIndex())
		}
	}
	changed := want[0]
	changed.Size = 7
	must(t, db.Add(changed))
	if got, err := db.Get(dgstA); err != nil || got != changed {
		t.Errorf("replaced: %+v, %v", got, err)
	}
	if err := db.Add(artifacts.Entry{Digest: "x"}); err == nil || !strings.Contains(err.Error(), db.Path) {
		t.Errorf("no digest: %v", err)
	}
	before := time.Now().Add(-time.Second)
	must(t, db.Add(artifacts.Entry{Digest: dgstA}))
	if got, err := db.Get(dgstA); err != nil || got.CreatedAt.Before(before) {
		t.Errorf("created now: %+v, %v", got, err)
	}
}

func TestMissing(t *testing.T) {
	db := newDB(t)
	for range 2 { // without and with the file's bucket
		_, get := db.Get(dgstA)
		_, z := db.ZTOC(layer, index.MediaTypeZTOC, 1)
		_, x := db.NewestIndex(image, index.V1)
		for name, err := range map[string]error{"get": get, "ztoc": z, "index": x, "remove": db.Remove(dgstA)} {
			if !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), db.Path) {
				t.Errorf("%s: %v", name, err)
			}
		}
		must(t, db.Add(artifacts.Entry{Digest: dgstB}))
		must(t, db.Remove(dgstB))
	}
	if list, err := db.List(); err != nil || len(list) != 0 {
		t.Errorf("list %v, %v", list, err)
	}
	db.Path = filepath.Join(db.Path, "no", "such")
	if _, err := db.List(); err == nil || !strings.Contains(err.Error(), db.Path) {
		t.Errorf("no directory: %v", err)
	}
}

func TestQueries(t *testing.T) {
	db := newDB(t)
	d := func(i int) digest.Digest { return digest.FromString(fmt.Sprint(i)) }
	other := ztocEntry(d(3), 0)
	other.SpanSize = 5
	must(t, db.Add(
		indexEntry(d(0), index.V1, 2*time.Hour), indexEntry(d(1), index.V1, time.Hour), indexEntry(d(2), index.V2, 0),
		other, ztocEntry(d(4), 4*time.Hour), ztocEntry(d(5), 3*time.Hour),
	))
	for v, want := range map[index.Version]digest.Digest{index.V1: d(1), index.V2: d(2)} {
		if e, err := db.NewestIndex(image, v); err != nil || e.Digest != want {
			t.Errorf("newest index v%d: %v, %v", v, e.Digest, err)
		}
	}
	for size, want := range map[int64]digest.Digest{1 << 22: d(5), 5: d(3)} {
		if e, err := db.ZTOC(layer, index.MediaTypeZTOC, size); err != nil || e.Digest != want {
			t.Errorf("zTOC of span size %d: %v, %v", size, e.Digest, err)
		}
	}
	list, err := db.List()
	must(t, err)
	if len(list) != 6 || !slices.IsSortedFunc(list, func(a, b artifacts.Entry) int { return b.CreatedAt.Compare(a.CreatedAt) }) {
		t.Errorf("list %v", list)
	}
	must(t, db.Remove(d(5)))
	if e, err := db.ZTOC(layer, index.MediaTypeZTOC, 1<<22); err != nil || e.Digest != d(4) {
		t.Errorf("after removal: %v, %v", e.Digest, err)
	}
}

// TestSchema holds the file to the incumbent's schema, both ways.
func TestSchema(t *testing.T) {
	db := newDB(t)
	created, err := day.MarshalBinary()
	must(t, err)
	fields := map[string][]byte{
		"size":          binary.AppendVarint(nil, 300),
		"span_size":     binary.AppendVarint(nil, 1<<22),
		"oci_digest":    []byte(layer),
		"image_digest":  nil,
		"platform":      nil,
		"location":      []byte(layer),
		"type":          []byte("soci_layer"),
		"media_type":    []byte("application/octet-stream"),
		"artifact_type": nil,
		"created_at":    created,
	}
	must(t, db.Add(ztocEntry(dgstA, 0)))
	raw(t, db, func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("soci_artifacts")).Bucket([]byte(dgstA))
		n := 0
		must(t, b.ForEach(func(k, v []byte) error {
			n++
			if want, ok := fields[string(k)]; !ok || string(v) != string(want) {
				t.Errorf("%s is %q, want %q", k, v, want)
			}
			return nil
		}))
		if n != len(fields) {
			t.Errorf("%d keys, want %d", n, len(fields))
		}
		// An entry of another program: numbers in whole buffers, keys left out.
		other, err := tx.Bucket([]byte("soci_artifacts")).CreateBucket([]byte(dgstB))
		must(t, err)
		buf := make([]byte, binary.MaxVarintLen64)
		binary.PutVarint(buf, 300)
		fields["size"] = buf
		for k, v := range fields {
			if v != nil {
				must(t, other.Put([]byte(k), v))
			}
		}
		return nil
	})
	if got, err := db.Get(dgstB); err != nil || got != ztocEntry(dgstB, 0) {
		t.Errorf("read %+v, %v", got, err)
	}
}

// TestDamaged holds that a damaged entry is an error which names it, not an end of the list.
func TestDamaged(t *testing.T) {
	for _, key := range []string{"size", "span_size", "created_at"} {
		db := newDB(t)
		must(t, db.Add(ztocEntry(dgstA, 0), ztocEntry(dgstB, 0)))
		raw(t, db, func(tx *bolt.Tx) error {
			return tx.Bucket([]byte("soci_artifacts")).Bucket([]byte(dgstA)).Put([]byte(key), []byte{0xff})
		})
		_, err := db.List()
		if err == nil || !strings.Contains(err.Error(), dgstA.String()) || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), db.Path) {
			t.Errorf("%s: %v", key, err)
		}
		if _, err := db.Get(dgstB); err != nil {
			t.Errorf("the other entry: %v", err)
		}
		must(t, db.Remove(dgstA))
	}
}

func TestBusy(t *testing.T) {
	db := newDB(t)
	b, err := bolt.Open(db.Path, 0o600, nil)
	must(t, err)
	if _, err := db.List(); !errors.Is(err, artifacts.ErrBusy) || !strings.Contains(err.Error(), db.Path) {
		t.Errorf("error %v", err)
	}
	must(t, b.Close())
	must(t, db.Add(ztocEntry(dgstA, 0)))
}

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

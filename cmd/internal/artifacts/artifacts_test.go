// SPDX-License-Identifier: Apache-2.0

package artifacts_test

import (
	"encoding/binary"
	"errors"
	"fmt"
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

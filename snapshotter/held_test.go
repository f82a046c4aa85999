// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestHeld restores a copy of the metadata that does not know of a running container: what
// containerd has cleaned up leaves it alone, also after a restart and another restoration, until an
// operator says that it is of no use any more.
func TestHeld(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/a:1", 1).build(t, -1)
	ctx := testContext(t)
	must(f.Prepare(ctx, "old", ""))(t)
	db := filepath.Join(f.opts.Root, "snapshotter", metadataFile)
	check(t, (&copies{ms: f.ms, path: db + copySuffix}).copy(t.Context()))
	old := must(os.ReadFile(db + copySuffix))(t)
	f.prepareAll(i)
	must(f.Prepare(ctx, "container", i.top()))(t)
	slot := must(f.layers.states.loadState(i.key(0)))(t).Slot
	served := func() {
		t.Helper()
		if st := must(f.layers.states.loadState(i.key(0)))(t); !f.mount.attached[i.key(0)] || st.Slot != slot {
			t.Errorf("the container's layer is not served, or not in slot %d: %v, %d", slot, f.mount.attached, st.Slot)
		}
	}
	written := filepath.Join(f.upper("3"), "file")
	check(t, os.WriteFile(written, nil, 0o600))
	for range 2 {
		f.restart(func() {
			check(t, os.WriteFile(db+copySuffix, old, 0o600))
			check(t, os.Truncate(db, 5000))
			check(t, mendMetadata(f.opts.Root, time.Second, testLog(t)))
		})
		served()
		must(f.Prepare(ctx, "new", ""))(t)
		check(t, f.Remove(ctx, "new"))
		before := f.entries("snapshotter", "snapshots")
		check(t, f.Cleanup(ctx))
		must(os.Stat(written))(t)
		if n := f.entries("snapshotter", "snapshots"); n != before-1 {
			t.Errorf("%d of %d directories are left, want one less", n, before)
		}
		if n := f.entries("soci", "layers"); n != 1 {
			t.Errorf("%d layers are on disk, want that of the container", n)
		}
		f.restart(func() {})
		served()
		check(t, f.Cleanup(ctx))
		must(os.Stat(written))(t)
		must(f.Prepare(ctx, "one more", ""))(t) // is held, too, when the copy is restored once more
	}
	check(t, os.Remove(heldPath(f.opts.Root)))
	check(t, f.Cleanup(ctx))
	if _, err := os.Stat(written); err == nil {
		t.Error("nothing is held any more, but is left")
	}
	f.restart(func() {})
	if n := f.entries("soci", "layers"); n != 0 || f.mount.names() != 0 {
		t.Errorf("%d layers are on disk and %d served, want none", n, f.mount.names())
	}
}

// TestHeldIDs reads what hold has written, and what it has not.
func TestHeldIDs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "held")
	want := func(want idRange, some bool) {
		t.Helper()
		if got, ok, err := heldIDs(path); got != want || ok != some || err != nil {
			t.Errorf("held are %v, %t, %v, want %v", got, ok, err, want)
		}
	}
	want(idRange{}, false)
	check(t, hold(path, idRange{5, 9}))
	want(idRange{5, 9}, true)
	check(t, hold(path, idRange{7, 12}))
	want(idRange{5, 12}, true)
	for _, text := range []string{"", "x", "5", strings.Repeat("9", 30)} {
		check(t, os.WriteFile(path, []byte(text), 0o600))
		want(idRange{0, math.MaxUint64}, true)
	}
	if r := (idRange{5, 9}); r.has(5) || !r.has(6) || !r.has(9) || r.has(10) {
		t.Error("bounds")
	}
}

// TestFirstStart dies while the first database is being made: the next start makes another one.
func TestFirstStart(t *testing.T) {
	root := t.TempDir()
	db := filepath.Join(root, "snapshotter", metadataFile)
	check(t, os.MkdirAll(filepath.Dir(db), 0o700))
	for _, content := range []string{"", "half of a database"} {
		check(t, os.WriteFile(db, []byte(content), 0o600))
		check(t, mendMetadata(root, time.Second, testLog(t)))
		check(t, must(openMetadata(t.Context(), root, time.Second))(t).Close())
	}
	must(os.Stat(db + badSuffix))(t)
	// A damaged copy, of no snapshot either.
	check(t, os.WriteFile(db, nil, 0o600))
	check(t, os.WriteFile(db+copySuffix, nil, 0o600))
	check(t, mendMetadata(root, time.Second, testLog(t)))
}

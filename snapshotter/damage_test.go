// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// damages are what can become of a file.
var damages = []struct {
	name string
	do   func(path string, p []byte) error
}{
	{"flip", func(path string, p []byte) error {
		p[len(p)/2] ^= 0x10
		return os.WriteFile(path, p, 0o600)
	}},
	{"truncate", func(path string, p []byte) error { return os.Truncate(path, int64(len(p)/2)) }},
	{"empty", func(path string, _ []byte) error { return os.Truncate(path, 0) }},
	{"delete", func(path string, _ []byte) error { return os.Remove(path) }},
	{"garbage", func(path string, p []byte) error {
		r := rand.New(rand.NewPCG(1, 2))
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		return os.WriteFile(path, p, 0o600)
	}},
	{"huge", func(path string, p []byte) error { return os.Truncate(path, int64(len(p))+400<<20) }},
}

func damage(t testing.TB, do func(string, []byte) error, path string) {
	t.Helper()
	check(t, do(path, must(os.ReadFile(path))(t)))
}

// TestDamage damages a file of each kind, a layer for each kind, and starts again: containers
// see the right bytes.
func TestDamage(t *testing.T) {
	needFUSE(t)
	reg := registrytest.New(registrytest.Options{})
	defer reg.Close()
	i := newImage(t, newMemory(), "", 1, 2, 3, 4)
	i.buildWith(t, index.BuildOptions{MinLayerSize: -1})
	i.push(t, reg, "library/app")
	want := tree(t, unpackAll(t, i))
	root := t.TempDir()
	s := newReal(t, root)
	for n := range i.chains {
		_, err := s.Prepare(testContext(t), fmt.Sprint("extract-", n), i.parent(n), snapshots.WithLabels(i.labels(n)))
		if !errdefs.IsAlreadyExists(err) {
			t.Fatalf("prepare layer %d: %v", n, err)
		}
	}
	all := t
	for k, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			checkTree(t, s, fmt.Sprint("whole-", k), i.top(), want)
			check(t, s.Close())
			for n, file := range []string{"soci/spans/%s/data", "soci/spans/%s/state", "soci/layers/%s/ztoc", "soci/layers/%s/layer.json"} {
				damage(t, d.do, filepath.Join(root, fmt.Sprintf(file, i.key(n))))
			}
			slots, err := filepath.Glob(filepath.Join(root, "soci", "*", "slots"))
			if err != nil || len(slots) != 1 {
				t.Fatalf("slot counters are %v, %v", slots, err)
			}
			damage(t, d.do, slots[0])
			damage(t, d.do, filepath.Join(root, "snapshotter", metadataFile))
			s = newReal(all, root)
			checkTree(t, s, fmt.Sprint("damaged-", k), i.top(), want)
		})
	}
}

// TestDamagedMetadata damages the database in many places: it is restored as it was, or what
// is wrong with it does no harm.
func TestDamagedMetadata(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/a:1", 1, 2).build(t, -1)
	f.prepareAll(i)
	for n := range 200 {
		must(f.Prepare(testContext(t), fmt.Sprint("container-", n), i.top()))(t)
	}
	list := func() string {
		var b strings.Builder
		check(t, f.Walk(testContext(t), func(_ context.Context, info snapshots.Info) error {
			_, err := fmt.Fprintln(&b, info.Name, info.Parent, info.Kind, info.Labels)
			return err
		}))
		return b.String()
	}
	want := list()
	check(t, f.Close())
	db := filepath.Join(f.opts.Root, "snapshotter", metadataFile)
	good := must(os.ReadFile(db))(t)
	mend := func() error { return mendMetadata(f.opts.Root, time.Second, testLog(t)) }
	if check(t, mend()); !bytes.Equal(good, must(os.ReadFile(db))(t)) {
		t.Error("a good database is changed")
	}
	for _, d := range damages {
		check(t, os.WriteFile(db, bytes.Clone(good), 0o600))
		damage(t, d.do, db)
		if err := mend(); err != nil {
			t.Fatalf("%s: %v", d.name, err)
		}
		f.start()
		if got := list(); got != want {
			t.Errorf("%s: snapshots are\n%s\nwant\n%s", d.name, got, want)
		}
		f.checkServed(i)
		check(t, f.Cleanup(testContext(t))) // the next database begins where this one did
		check(t, f.Close())
	}
	// What a page says of itself, and where it ends.
	for off := 0; off < len(good); off += 4096 {
		for _, at := range []int{8, 10, 12} {
			p := bytes.Clone(good)
			for k := range 2 {
				p[off+at+k] ^= 0xff
			}
			check(t, os.WriteFile(db, p, 0o600))
			if err := mend(); err != nil {
				t.Fatalf("at %d: %v", off+at, err)
			}
			ms := must(openMetadata(t.Context(), f.opts.Root, time.Second))(t)
			check(t, ms.Close())
		}
	}
	for cut := 0; cut < len(good); cut += 4096 {
		check(t, os.WriteFile(db, good[:cut], 0o600))
		check(t, mend())
	}
}

// TestFlippedMetadata flips each bit of a key and of a value, in turn, that the database itself does not notice, and
// takes its last transaction from it: the copy tells.
func TestFlippedMetadata(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	ctx := testContext(t)
	for n := range 100 { // so that there are branches
		must(f.Prepare(ctx, fmt.Sprintf("%d-%s", n, strings.Repeat("x", 100)), ""))(t)
	}
	check(t, f.Remove(ctx, "50-"+strings.Repeat("x", 100)))
	must(f.Prepare(ctx, "the-key", "", snapshots.WithLabels(map[string]string{"the-label": "the-value"})))(t)
	check(t, f.Close())
	page := os.Getpagesize()
	db := filepath.Join(f.opts.Root, "snapshotter", metadataFile)
	good := must(os.ReadFile(db))(t)
	quiet := slog.New(slog.DiscardHandler)
	mend := func(what string) {
		t.Helper()
		check(t, mendMetadata(f.opts.Root, time.Second, quiet))
		f.start()
		must(os.Stat(db + badSuffix))(t)
		if info := must(f.Stat(ctx, "the-key"))(t); info.Labels["the-label"] != "the-value" {
			t.Errorf("%s: labels are %v", what, info.Labels)
		}
		check(t, f.Close())
		check(t, os.WriteFile(db, good, 0o600))
		check(t, os.Remove(db+badSuffix))
	}
	copied := must(os.ReadFile(db + copySuffix))(t)
	for _, text := range []string{"the-key", "the-label", "the-value"} {
		for bit := range 8 {
			p := bytes.Clone(good)
			for at := 0; ; at++ { // pages that are not in use any more have it, too
				k := bytes.Index(p[at:], []byte(text))
				if k < 0 {
					break
				}
				at += k
				p[at+len(text)/2] ^= 1 << bit
			}
			check(t, os.WriteFile(db, p, 0o600))
			check(t, os.WriteFile(db+copySuffix, copied, 0o600))
			mend(fmt.Sprintf("bit %d of %q", bit, text))
		}
	}
	// The newer one of the two pages that say what is where.
	p := bytes.Clone(good)
	newer := 0
	if binary.LittleEndian.Uint64(p[page+64:]) > binary.LittleEndian.Uint64(p[64:]) {
		newer = page
	}
	p[newer+64] ^= 1
	check(t, os.WriteFile(db, p, 0o600))
	check(t, os.WriteFile(db+copySuffix, copied, 0o600))
	mend("last transaction")
	// A bit of anything else, such as a branch or the list of free pages.
	last := len(copied) - len(seal) - 4
	for off := 2*page + 20; off < last; off += 301 {
		p := bytes.Clone(good)
		p[off] ^= 1
		check(t, os.WriteFile(db, p, 0o600))
		check(t, os.WriteFile(db+copySuffix, copied, 0o600))
		check(t, mendMetadata(f.opts.Root, time.Second, quiet))
		if now := must(os.ReadFile(db))(t); !bytes.Equal(now[2*page:last], copied[2*page:last]) {
			t.Errorf("at %d: the database is not what it was", off)
		}
	}
	// A copy with another checksum tells nothing, nor does one of a version that had none.
	for cut, want := range map[int]string{1: "the-value", len(seal) + 4: "the-valuf"} {
		c := bytes.Clone(copied)
		if cut == 1 {
			c[len(c)-1] ^= 1
		} else {
			c = c[:len(c)-cut]
		}
		p := bytes.ReplaceAll(good, []byte("the-value"), []byte(want))
		check(t, os.WriteFile(db, p, 0o600))
		check(t, os.WriteFile(db+copySuffix, c, 0o600))
		check(t, mendMetadata(f.opts.Root, time.Second, testLog(t)))
		if now := must(os.ReadFile(db))(t); !bytes.Equal(now, p) {
			t.Errorf("a copy that lacks %d bytes is believed", cut)
		}
	}
}

// TestOtherVersion has a database of a version that is not known: it is left alone.
func TestOtherVersion(t *testing.T) {
	f := newFixture(t, newMemory(), Options{})
	must(f.Prepare(testContext(t), "a", ""))(t)
	check(t, f.Close())
	db := filepath.Join(f.opts.Root, "snapshotter", metadataFile)
	p := must(os.ReadFile(db))(t)
	for n := range 2 {
		p[n*os.Getpagesize()+16+4] = 77
	}
	check(t, os.WriteFile(db, p, 0o600))
	if err := mendMetadata(f.opts.Root, time.Second, testLog(t)); err == nil || !strings.Contains(err.Error(), db) {
		t.Errorf("mend: %v", err)
	}
	if !bytes.Equal(p, must(os.ReadFile(db))(t)) {
		t.Error("the database is another one")
	}
}

// TestWrongCopy has a database that is gone and a copy whose checksum is wrong: that is better than none. What is set
// aside is kept, the first files of all.
func TestWrongCopy(t *testing.T) {
	f := newFixture(t, newMemory(), Options{})
	must(f.Prepare(testContext(t), "a", ""))(t)
	check(t, f.Close())
	db := filepath.Join(f.opts.Root, "snapshotter", metadataFile)
	for n := range maxAside + 2 {
		c := must(os.ReadFile(db + copySuffix))(t)
		c[len(c)-1] ^= 1
		check(t, os.WriteFile(db+copySuffix, c, 0o600))
		check(t, os.WriteFile(db, []byte{byte(n)}, 0o600))
		check(t, mendMetadata(f.opts.Root, time.Second, testLog(t)))
		f.start()
		must(f.Stat(testContext(t), "a"))(t)
		check(t, f.Close())
	}
	for name, want := range map[string]byte{"": 0, ".1": 1, ".2": 2, ".3": maxAside + 1} {
		if p, err := os.ReadFile(db + badSuffix + name); err != nil || len(p) != 1 || p[0] != want {
			t.Errorf("%q is %v, %v, want %d", name, p, err, want)
		}
	}
}

// TestLostMetadata has no copy to restore the database from: it begins anew, what containers use is
// served on and left alone, and no id is given out again.
func TestLostMetadata(t *testing.T) {
	for _, d := range damages[1:5] {
		t.Run(d.name, func(t *testing.T) {
			m := newMemory()
			f := newFixture(t, m, Options{})
			i := newImage(t, m, "registry.test/a:1", 1).build(t, -1)
			f.prepareAll(i)
			ctx := testContext(t)
			must(f.Prepare(ctx, "container", i.top()))(t)
			before := f.entries("snapshotter", "snapshots")
			db := filepath.Join(f.opts.Root, "snapshotter", metadataFile)
			f.restart(func() {
				damage(t, d.do, db)
				damage(t, d.do, db+copySuffix)
				check(t, mendMetadata(f.opts.Root, time.Second, testLog(t)))
			})
			if !f.mount.attached[i.key(0)] {
				t.Error("the container's layer is not served")
			}
			if _, err := f.Mounts(ctx, "container"); !errdefs.IsNotFound(err) {
				t.Errorf("mounts of a snapshot that is not known: %v", err)
			}
			check(t, f.Cleanup(ctx))
			if n := f.entries("snapshotter", "snapshots"); n != before {
				t.Errorf("%d directories of %d are left", n, before)
			}
			// The image can be pulled again, and is served from where it was.
			slot := must(f.layers.states.loadState(i.key(0)))(t).Slot
			f.prepareAll(i)
			f.checkServed(i)
			if now := must(f.layers.states.loadState(i.key(0)))(t).Slot; now != slot {
				t.Errorf("the layer is in slot %d, was in %d", now, slot)
			}
			must(os.Stat(f.upper(strconv.Itoa(before + 1))))(t)
		})
	}
	// A root that is new has none of it.
	check(t, mendMetadata(t.TempDir(), time.Second, testLog(t)))
}

// TestStaleCopy restores a copy that is older than snapshots there are: none of theirs ids is given out again.
func TestStaleCopy(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/a:1", 1).build(t, -1)
	f.prepareAll(i)
	db := filepath.Join(f.opts.Root, "snapshotter", metadataFile)
	check(t, (&copies{ms: f.ms, path: db + copySuffix}).copy(t.Context()))
	old := must(os.ReadFile(db + copySuffix))(t)
	must(f.Prepare(testContext(t), "later", i.top()))(t)
	f.restart(func() {
		check(t, os.WriteFile(db+copySuffix, old, 0o600))
		check(t, os.Truncate(db, 5000))
		check(t, mendMetadata(f.opts.Root, time.Second, testLog(t)))
		must(os.Stat(db + badSuffix))(t)
	})
	f.checkServed(i)
	must(f.Prepare(testContext(t), "later", i.top()))(t)
}

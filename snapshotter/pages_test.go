// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

const smallPage = 1 << 10

// makeDatabase writes a database with branches, buckets in buckets, values over several pages and free pages, and
// returns it as it was after each transaction.
func makeDatabase(t testing.TB, path string) (states [][]byte) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: smallPage, NoSync: true, NoGrowSync: true})
	check(t, err)
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 40 {
		check(t, db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("v1"))
			if err != nil {
				return err
			}
			for range 8 {
				key := fmt.Appendf(nil, "key-%d", r.IntN(200))
				sub := fmt.Appendf(nil, "sub-%d", r.IntN(50))
				s, err := b.CreateBucketIfNotExists(sub)
				if err == nil {
					err = s.Put(key, bytes.Repeat(key, r.IntN(400)))
				}
				if err == nil && n%3 == 2 {
					err = b.DeleteBucket(sub)
				}
				if err != nil {
					return err
				}
			}
			return b.Put([]byte("round"), fmt.Append(nil, n))
		}))
		p := must(os.ReadFile(path))(t)
		states = append(states, p)
	}
	check(t, db.Close())
	return states
}

// signed gives the two pages of p that say where all else is their checksums.
func signed(p []byte) []byte {
	for off := range 2 {
		m := p[off*smallPage+pageHeader:][:metaSize]
		h := fnv.New64a()
		_, _ = h.Write(m[:metaSize-8])
		binary.NativeEndian.PutUint64(m[metaSize-8:], h.Sum64())
	}
	return p
}

// TestGoodPages has databases that nothing is wrong with.
func TestGoodPages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	for n, p := range makeDatabase(t, path) {
		if err := checkPages(p); err != nil {
			t.Errorf("after transaction %d: %v", n, err)
		}
	}
	// So many free pages that their number is the list's first word.
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: smallPage, NoSync: true, NoGrowSync: true})
	check(t, err)
	check(t, db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("v1")).Put([]byte("large"), make([]byte, 66<<10*smallPage))
	}))
	for range 3 {
		check(t, db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("v1")).Delete([]byte("large")) }))
	}
	if n := db.Stats().FreePageN; n < manyFree {
		t.Fatalf("%d pages are free", n)
	}
	check(t, db.Close())
	check(t, checkPages(must(os.ReadFile(path))(t)))
	check(t, checkMetadata(path, time.Second))
	if m := newestMeta(must(os.ReadFile(path))(t)); m.pageSize != smallPage || m.lastTransaction < 40 {
		t.Errorf("%+v", m)
	}
}

// TestWrongPages has databases with pages that bbolt would follow to nowhere, or for ever.
func TestWrongPages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	states := makeDatabase(t, path)
	good := states[len(states)-1]
	e := binary.NativeEndian
	m := newestMeta(good)
	find := func(flags uint16) uint64 { // a page in use, not the root
		g := pages{p: good, size: smallPage, seen: make([]bool, len(good)/smallPage)}
		check(t, g.tree(m.root))
		for id, used := range g.seen {
			p := good[id*smallPage:]
			if is, n := header(p); used && e.Uint64(p) == uint64(id) && is == flags && n > 1 && uint64(id) != m.root {
				return uint64(id)
			}
		}
		t.Fatalf("no page with flags %#x", flags)
		return 0
	}
	branch, leaf, free := find(branchPage), find(leafPage), m.freeList
	meta := pageHeader + (m.lastTransaction%2)*smallPage
	for _, c := range []struct {
		name string
		edit func(p []byte)
		want string
	}{
		{"a branch that refers to itself", func(p []byte) { e.PutUint64(p[branch*smallPage+pageHeader+8:], branch) }, "used twice"},
		{"a branch that refers to the root", func(p []byte) { e.PutUint64(p[branch*smallPage+pageHeader+8:], m.root) }, "used twice"},
		{"a branch that refers to a page that is not there", func(p []byte) { e.PutUint64(p[branch*smallPage+pageHeader+8:], 1<<40) }, "there is no page"},
		{"a branch that refers to the first page", func(p []byte) { e.PutUint64(p[branch*smallPage+pageHeader+8:], 0) }, "there is no page"},
		{"a branch with a key outside", func(p []byte) { e.PutUint32(p[branch*smallPage+pageHeader+4:], 1<<31) }, "outside"},
		{"a branch with too many elements", func(p []byte) { e.PutUint16(p[branch*smallPage+10:], 1<<15) }, "outside"},
		{"a branch without elements", func(p []byte) { e.PutUint16(p[branch*smallPage+10:], 0) }, "0 elements"},
		{"another kind of page", func(p []byte) { e.PutUint16(p[leaf*smallPage+8:], freePage) }, "flags 0x10"},
		{"another page's number", func(p []byte) { e.PutUint64(p[leaf*smallPage:], leaf+1) }, "says that it is"},
		{"a leaf of too many pages", func(p []byte) { e.PutUint32(p[leaf*smallPage+12:], 1<<30) }, "there is no page"},
		{"a leaf that reaches into others", func(p []byte) { e.PutUint32(p[leaf*smallPage+12:], uint32(uint64(len(p)/smallPage)-leaf-1)) }, "used twice"},
		{"a leaf with a value outside", func(p []byte) { e.PutUint32(p[leaf*smallPage+pageHeader+12:], 1<<31) }, "outside"},
		{"a leaf with too many elements", func(p []byte) { e.PutUint16(p[leaf*smallPage+10:], 1<<15) }, "outside"},
		{"a root that is not there", func(p []byte) { e.PutUint64(p[meta+16:], 1<<50) }, "there is no page"},
		{"a list of free pages that is not there", func(p []byte) { e.PutUint64(p[meta+32:], 1<<50) }, "there is no page"},
		{"a list of free pages that is a leaf", func(p []byte) { e.PutUint16(p[free*smallPage+8:], leafPage) }, "flags 0x2"},
		{"too many free pages", func(p []byte) {
			e.PutUint16(p[free*smallPage+10:], manyFree)
			e.PutUint64(p[free*smallPage+pageHeader:], 1<<60)
		}, "free pages"},
		{"a free page that is used", func(p []byte) { e.PutUint64(p[free*smallPage+pageHeader:], leaf) }, "free: page"},
		{"half of it", func(p []byte) { clear(p[len(p)/2:]) }, "page"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := bytes.Clone(good)
			c.edit(p)
			err := checkPages(signed(p))
			if !errors.Is(err, errDamaged) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	if err := checkPages(good[:len(good)-len(good)/4]); !errors.Is(err, errDamaged) {
		t.Errorf("cut off: %v", err)
	}
	if m := newestMeta(good[1:]); m != nil {
		t.Errorf("%+v", m)
	}
}

// TestPagesForEver starts with a database whose branch refers to itself, and without a copy: it begins anew. With a
// copy of the same transaction nothing is lost.
func TestPagesForEver(t *testing.T) {
	f := newFixture(t, newMemory(), Options{})
	ctx := testContext(t)
	for n := range 100 {
		must(f.Prepare(ctx, fmt.Sprintf("%d-%s", n, strings.Repeat("x", 100)), ""))(t)
	}
	check(t, f.Close())
	db := filepath.Join(f.opts.Root, "snapshotter", metadataFile)
	good, copied := must(os.ReadFile(db))(t), must(os.ReadFile(db+copySuffix))(t)
	m := newestMeta(good)
	g := pages{p: good, size: uint64(m.pageSize), seen: make([]bool, m.pages)}
	check(t, g.tree(m.root))
	edits := 0
	for id, used := range g.seen {
		p := good[uint64(id)*g.size:]
		if flags, _ := header(p); used && flags == branchPage && binary.NativeEndian.Uint64(p) == uint64(id) {
			binary.NativeEndian.PutUint64(p[pageHeader+8:], uint64(id))
			edits++
		}
	}
	if edits == 0 {
		t.Fatal("no branch")
	}
	quiet := slog.New(slog.DiscardHandler)
	for _, copy := range []bool{true, false} {
		check(t, os.WriteFile(db, good, 0o600))
		check(t, os.WriteFile(db+copySuffix, copied, 0o600))
		if !copy {
			check(t, os.Remove(db+copySuffix))
		}
		check(t, mendMetadata(f.opts.Root, time.Second, quiet))
		f.start()
		_, err := f.Stat(ctx, "7-"+strings.Repeat("x", 100))
		if (err == nil) != copy {
			t.Errorf("with a copy %t: %v", copy, err)
		}
		check(t, f.Close())
	}
}

// FuzzPages: a database whose pages are found to be good can be read to its end, or an error says why not.
func FuzzPages(f *testing.F) {
	states := makeDatabase(f, filepath.Join(f.TempDir(), "db"))
	good := states[len(states)-1]
	m := newestMeta(good)
	f.Add([]byte{})
	f.Add(binary.LittleEndian.AppendUint32(nil, uint32(m.root*smallPage+pageHeader+8)<<8|3))
	f.Add(binary.LittleEndian.AppendUint32(nil, uint32(m.freeList*smallPage+pageHeader)<<8|0xff))
	f.Fuzz(func(t *testing.T, edits []byte) {
		p := bytes.Clone(good)
		for ; len(edits) >= 4; edits = edits[4:] { // offset and value of a byte
			v := binary.LittleEndian.Uint32(edits)
			p[v>>8%uint32(len(p))] = byte(v)
		}
		if checkPages(signed(p)) != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "db")
		check(t, os.WriteFile(path, p, 0o600))
		if err := readDatabase(path, time.Second); err != nil && !errors.Is(err, errDamaged) && !strings.Contains(err.Error(), "version mismatch") {
			t.Error(err)
		}
	})
}

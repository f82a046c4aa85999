// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// ref is a match: len bytes at out that repeat those dist bytes before.
type ref struct {
	out, bit  int64 // uncompressed offset; compressed position of its first bit
	dist, len uint16
}

// all returns the matches of a piece.
func (r *refs) all() []ref {
	var all []ref
	list := r.list
	for _, run := range r.runs {
		for _, f := range list[:run.n] {
			all = append(all, ref{run.out + int64(f.Pos), run.bit + int64(f.Bit), f.Dist, f.Len})
		}
		list = list[run.n:]
	}
	return all
}

// recorder is a planner that keeps what it sees, and puts a span at every n-th block.
type recorder struct {
	t      *testing.T
	n      int
	off    int64
	bit    int64
	count  int
	blocks []blockStart
	refs   []ref
	plain  []byte
	cuts   []cut
	lag    []cut // cuts that are told one piece later
}

func (r *recorder) add(p *piece) ([]cut, int64, error) {
	if p.off != r.off || int64(len(p.hist)) != min(windowSize, p.off) || !bytes.Equal(p.hist, r.plain[len(r.plain)-len(p.hist):]) {
		r.t.Fatalf("piece at %d, want %d, with %d bytes of history", p.off, r.off, len(p.hist))
	}
	if &p.hist[:cap(p.hist)][len(p.hist)] != &p.data[:1][0] {
		r.t.Fatalf("history and data of the piece at %d are not contiguous", p.off)
	}
	r.off += int64(len(p.data))
	r.plain = append(r.plain, p.data...)
	settled := r.bit
	told := r.lag
	r.lag = nil
	for _, b := range p.blocks {
		if b.out < p.off || b.out > r.off || b.bit < r.bit || b.bit > p.bit {
			r.t.Fatalf("block at %d, bit %d, in the piece [%d, %d), bits %d to %d", b.out, b.bit, p.off, r.off, r.bit, p.bit)
		}
		b.header = bytes.Clone(b.header)
		r.blocks = append(r.blocks, b)
		if r.count++; r.count%r.n == 1 {
			r.lag = append(r.lag, cutAt(b.bit))
		}
	}
	refs := p.refs.all()
	if len(refs) != len(p.refs.list) {
		r.t.Fatalf("%d of %d matches in the runs of the piece at %d", len(refs), len(p.refs.list), p.off)
	}
	for _, f := range refs {
		if f.out < p.off || f.out >= r.off || f.bit < r.bit || f.bit >= p.bit {
			r.t.Fatalf("match at %d, bit %d, in the piece [%d, %d), bits %d to %d", f.out, f.bit, p.off, r.off, r.bit, p.bit)
		}
	}
	r.refs = append(r.refs, refs...)
	r.bit = p.bit
	r.cuts = append(r.cuts, told...)
	return told, settled / 8, nil
}

func (r *recorder) finish(out int64) ([]cut, error) {
	if out != r.off {
		r.t.Fatalf("%d bytes, want %d", out, r.off)
	}
	r.cuts = append(r.cuts, r.lag...)
	return r.lag, nil
}

// record makes a pass with a recorder.
func record(t *testing.T, layer []byte, compactSize int64) (*recorder, *result) {
	t.Helper()
	r := &recorder{t: t, n: 3}
	res, err := passOptions{
		spanSize: 1 << 20, compactSize: compactSize, digests: true, planner: r,
		entry: func(*Entry) error { return nil }, window: func([]byte) error { return nil },
	}.run(t.Context(), bytes.NewReader(layer))
	if err != nil {
		t.Fatal(err)
	}
	return r, res
}

// TestTrace holds that the planner gets all matches it may need, right to the bit,
// and spans digested as it cut them.
func TestTrace(t *testing.T) {
	archive, err := ztoctest.Tar([]ztoctest.File{ztoctest.Big(1, "a", 5<<20)}, ztoctest.TarOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range [][]byte{
		must(ztoctest.Member{Level: 6}.Encode(archive))(t),
		must(ztoctest.Members(archive, 300000, ztoctest.Member{Level: 1, FlushEvery: 40000}))(t),
	} {
		all, _ := record(t, layer, 4<<10) // zones overlap: everything is traced
		for i, f := range all.refs {
			if i > 0 && f.bit <= all.refs[i-1].bit {
				t.Fatalf("match %d at bit %d, behind bit %d", i, f.bit, all.refs[i-1].bit)
			}
			for k := f.out; k < f.out+int64(f.len); k++ {
				if archive[k] != archive[k-int64(f.dist)] {
					t.Fatalf("match %+v is none", f)
				}
			}
		}
		const size = 1 << 20
		got, res := record(t, layer, size)
		var want []ref
		for _, f := range all.refs {
			point := (f.out + zoneOf(size)) / size * size
			if point > 0 && f.out >= point-zoneOf(size) && f.out < point+windowSize && f.out-int64(f.dist) < point {
				want = append(want, f)
			}
		}
		if len(want) < 1000 || !slices.Equal(got.refs, want) {
			t.Errorf("%d matches traced, want %d of %d", len(got.refs), len(want), len(all.refs))
		}
		if !reflect.DeepEqual(got.blocks, all.blocks) {
			t.Error("blocks depend on what is traced")
		}
		for i, c := range got.cuts {
			end := int64(len(layer))
			if i+1 < len(got.cuts) {
				end = got.cuts[i+1].end
			}
			if sha256.Sum256(layer[c.start:end]) != res.compact[i] {
				t.Errorf("digest %d of %d differs", i, len(got.cuts))
			}
		}
		if len(res.compact) != len(got.cuts) || len(got.cuts) < 5 {
			t.Errorf("%d digests for %d cuts", len(res.compact), len(got.cuts))
		}
	}
}

// must returns a function that fails its test on err.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestStagePanic has a stage that panics: the caller gets it with its stack.
func TestStagePanic(t *testing.T) {
	defer func() {
		if s, ok := recover().(string); !ok || !strings.Contains(s, "on the way") || !strings.Contains(s, "TestStagePanic") {
			t.Errorf("recovered %q", s)
		}
	}()
	archive := must(ztoctest.Tar(ztoctest.Files(1, 10), ztoctest.TarOptions{}))(t)
	_, err := passOptions{spanSize: 1 << 20, entry: func(*Entry) error { panic("on the way") }}.run(t.Context(), bytes.NewReader(archive))
	t.Errorf("no panic, error %v", err)
}

// TestStageErrors holds that errors of the spool come back.
func TestStageErrors(t *testing.T) {
	archive := must(ztoctest.Tar(ztoctest.Files(1, 10), ztoctest.TarOptions{}))(t)
	layer := must(ztoctest.Member{Level: 6}.Encode(archive))(t)
	full := errors.New("no space")
	for name, o := range map[string]passOptions{
		"entry":  {entry: func(*Entry) error { return full }, window: func([]byte) error { return nil }},
		"window": {entry: func(*Entry) error { return nil }, window: func([]byte) error { return full }},
	} {
		if _, err := o.run(t.Context(), bytes.NewReader(layer)); !errors.Is(err, full) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTape reads entries of all kinds back, forwards and backwards, from memory and from a file.
func TestTape(t *testing.T) {
	for _, block := range []int{spoolBlock, 1000} {
		dir := t.TempDir()
		tp := tape{spool: newSpool(dir)}
		tp.spool.block = block
		r := rand.New(rand.NewPCG(3, 3))
		var want []Entry
		off := int64(0)
		for range 1000 {
			for _, e := range randomZTOC(r).TOC {
				if e.Type == TypeReg {
					e.Size &= 1<<40 - 1
				}
				e.ModTime = time.Unix(e.ModTime.Unix(), int64(e.ModTime.Nanosecond())).UTC()
				e.Offset = off + tarBlock*(1+r.Int64N(3))
				off = align(e.Offset + e.Size)
				if len(want) > 0 && r.IntN(2) == 0 {
					p := &want[len(want)-1]
					e.Name, e.UID, e.GID, e.Uname, e.Gname, e.Mode, e.ModTime = p.Name+"x", p.UID, p.GID, p.Uname, p.Gname, p.Mode, p.ModTime
				}
				if err := tp.add(&e); err != nil {
					t.Fatal(err)
				}
				want = append(want, e)
			}
			if len(want) > 3000 {
				break
			}
		}
		if err := tp.cut(); err != nil {
			t.Fatal(err)
		}
		next := 0
		err := tp.ascend(func(i int, e *Entry) error {
			if i != next || !reflect.DeepEqual(*e, want[i]) {
				t.Fatalf("entry %d:\n%+v\nis not\n%+v", i, *e, want[i])
			}
			next++
			return nil
		})
		if err != nil || next != len(want) || tp.count() != next {
			t.Fatalf("%d of %d entries (%v)", next, len(want), err)
		}
		err = tp.descend(func(i int, e *Entry) error {
			if next--; i != next || !reflect.DeepEqual(*e, want[i]) {
				t.Fatalf("entry %d backwards:\n%+v\nis not\n%+v", i, *e, want[i])
			}
			return nil
		})
		if err != nil || next != 0 {
			t.Fatalf("%d entries left (%v)", next, err)
		}
		if left := must(filepath.Glob(filepath.Join(dir, "*")))(t); len(left) > 0 || (tp.spool.file != nil) != (block == 1000) {
			t.Errorf("files %q", left)
		}
		if err := tp.spool.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestTapeMemory holds that a reading of many entries takes the memory of a block, and
// that one whose strings are kept takes more.
func TestTapeMemory(t *testing.T) {
	const n = 50 * tapeEntries
	tp := tape{spool: newSpool(t.TempDir())}
	defer tp.spool.Close()
	entry := func(i int) Entry {
		name := fmt.Sprintf("dir/file %d", i)
		return Entry{Name: name, Type: TypeReg, Offset: int64(i+1) * tarBlock, ModTime: time.Unix(1, 0).UTC(), PAX: []Record{{"path", name}}}
	}
	for i := range n {
		e := entry(i)
		if err := tp.add(&e); err != nil {
			t.Fatal(err)
		}
	}
	if err := tp.cut(); err != nil {
		t.Fatal(err)
	}
	var kept []Entry
	var err error
	for _, e := range tp.all(tapeReader{keep: true}, &err) {
		kept = append(kept, e)
	}
	if err != nil || len(kept) != n {
		t.Fatalf("%d entries, %v", len(kept), err)
	}
	for i, e := range kept {
		if want := entry(i); !reflect.DeepEqual(e, want) {
			t.Fatalf("entry %d is %+v, not %+v", i, e, want)
		}
	}
	allocs := testing.AllocsPerRun(5, func() {
		if err := tp.ascend(func(int, *Entry) error { return nil }); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 30 {
		t.Errorf("%v allocations for %d entries", allocs, n)
	}
}

// TestTapeDamaged flips bytes of a tape: it must not panic, nor take what is not there.
func TestTapeDamaged(t *testing.T) {
	tp := tape{spool: newSpool(t.TempDir())}
	for i, e := range randomZTOC(rand.New(rand.NewPCG(4, 4))).TOC[:50] {
		e.Offset, e.Size = int64(i+1)*tarBlock, 0
		if err := tp.add(&e); err != nil {
			t.Fatal(err)
		}
	}
	if err := tp.cut(); err != nil {
		t.Fatal(err)
	}
	noticed := 0
	mem := tp.spool.blocks[0]
	for i := range mem {
		for _, x := range []byte{1, 0x80, 0xff} {
			mem[i] ^= x
			if err := tp.ascend(func(int, *Entry) error { return nil }); errors.Is(err, errTape) {
				noticed++
			} else if err != nil {
				t.Fatal(err)
			}
			mem[i] ^= x
		}
	}
	if noticed == 0 {
		t.Error("nothing was noticed")
	}
	tp.spool.blocks[0] = mem[:100]
	if err := tp.ascend(func(int, *Entry) error { return nil }); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut spool: %v", err)
	}
}

// TestSpoolNowhere has no directory for the file.
func TestSpoolNowhere(t *testing.T) {
	s := newSpool(filepath.Join(t.TempDir(), "gone"))
	s.block, s.limit = 10, 1
	if err := s.append(make([]byte, 100)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

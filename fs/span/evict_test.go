// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/ztoc"
)

const evictSpan = 64 << 10

// evictable is a store with complete and incomplete layers, used and unused ones, and Keep.
type evictable struct {
	t      *testing.T
	s      *Store
	uses   map[string]Use
	data   *layerData
	layers map[string]*Layer
	src    map[string]*source
}

// newEvictable makes layers by key: 8 spans of which those whose keys say so are complete.
func newEvictable(t *testing.T, opts Options, uses map[string]Use) *evictable {
	t.Helper()
	e := &evictable{t: t, uses: uses, data: plainLayer(8, evictSpan), layers: map[string]*Layer{}, src: map[string]*source{}}
	e.data.zi.Spans = e.data.zi.Spans[:8]
	e.data.zi.UncompressedSize, e.data.zi.CompressedSize = 8*evictSpan, 8*evictSpan
	e.data.blob, e.data.plain = e.data.blob[:8*evictSpan], e.data.plain[:8*evictSpan]
	opts.Quiet = now
	opts.Uses = func() map[string]Use { return e.uses }
	e.s = mustOpen(t, t.TempDir(), opts)
	for _, key := range slices.Sorted(mapKeys(uses)) {
		e.src[key] = e.data.source()
		l, err := e.s.Layer(key, e.data.zi, e.src[key])
		must(t, err)
		n := int64(6)
		if key[0] == 'c' {
			n = 8
		}
		must(t, l.Prefetch(t.Context(), []ztoc.Range{{Len: n * evictSpan}}))
		mustRead(t, l, e.data, 0, 10)
		settled(t, l)
		l.answered.Store(0)
		e.layers[key] = l
		e.read(0)
	}
	return e
}

// read has the layers been read at some second and soon after: in the order of their names, the last span first.
func (e *evictable) read(second uint32) {
	for i, key := range slices.Sorted(mapKeys(e.layers)) {
		l := e.layers[key]
		l.used.Store(second + uint32(i+1))
		for j := range l.ages {
			l.ages[j].Store(second + uint32(8-j))
		}
	}
}

func mapKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// present returns which spans of each layer are on disk, as "01234567".
func (e *evictable) present() map[string]string {
	got := make(map[string]string)
	for key, l := range e.layers {
		got[key] = ""
		for i := range l.spans {
			if l.spans[i].Load() != absent {
				got[key] += fmt.Sprint(i)
			}
		}
	}
	return got
}

func (e *evictable) want(want map[string]string) {
	e.t.Helper()
	if got := e.present(); fmt.Sprint(got) != fmt.Sprint(want) {
		e.t.Errorf("on disk are %v, want %v", got, want)
	}
	var n, blocks int64
	for _, l := range e.layers {
		n += l.onDisk.Load()
		blocks += allocated(e.t, l)
	}
	if n != e.s.Stats().Bytes {
		e.t.Errorf("%d bytes on disk, %d counted", n, e.s.Stats().Bytes)
	}
	if most := n + int64(len(e.layers))*(16<<10); blocks > most {
		e.t.Errorf("files take %d bytes, want %d at most", blocks, most)
	}
	for _, l := range e.layers {
		mustRead(e.t, l, e.data, 0, 8*evictSpan)
	}
}

// allocated returns how many bytes a layer's files take on disk.
func allocated(t *testing.T, l *Layer) int64 {
	t.Helper()
	var n int64
	for _, f := range []file{l.disk.data, l.disk.state} {
		var st unix.Stat_t
		must(t, unix.Fstat(int(f.(*os.File).Fd()), &st))
		n += st.Blocks * 512
	}
	return n
}

// TestEvictOrder evicts from layers of all kinds.
func TestEvictOrder(t *testing.T) {
	uses := map[string]Use{"a-unused": Unused, "b-used": InUse, "c-unused": Unused, "cc-used": InUse, "d-kept": Keep}
	all := map[string]string{"a-unused": "012345", "b-used": "012345", "c-unused": "01234567", "cc-used": "01234567", "d-kept": "012345"}
	for _, c := range []struct {
		spans int
		want  map[string]string // what differs from all
	}{
		{0, nil},
		{1, map[string]string{"a-unused": "01234"}},
		{6, map[string]string{"a-unused": ""}},
		{8, map[string]string{"a-unused": "", "b-used": "0123"}},
		{13, map[string]string{"a-unused": "", "b-used": "", "c-unused": "0123456"}},
		{21, map[string]string{"a-unused": "", "b-used": "", "c-unused": "", "cc-used": "0123456"}},
		{100, map[string]string{"a-unused": "", "b-used": "", "c-unused": "", "cc-used": ""}},
	} {
		t.Run(fmt.Sprint(c.spans), func(t *testing.T) {
			e := newEvictable(t, Options{}, uses)
			want := map[string]string{}
			for k, v := range all {
				want[k] = v
			}
			for k, v := range c.want {
				want[k] = v
			}
			got := e.s.evict(t.Context(), int64(c.spans)*evictSpan, true)
			if most := int64(28 * evictSpan); got != min(int64(c.spans)*evictSpan, most) || e.s.Stats().Evicted != got {
				t.Errorf("evicted %d bytes, says %d", got, e.s.Stats().Evicted)
			}
			e.want(want)
		})
	}
}

// TestEvictSpares holds what is not evicted, because it is complete and cannot be had again,
// or because the disk is not really full and it would be missed.
func TestEvictSpares(t *testing.T) {
	uses := map[string]Use{"b-used": InUse, "c-unused": Unused, "cc-used": InUse}
	gone := func(context.Context, int, []byte, int64) error { return errors.New("gone") }
	t.Run("source gone", func(t *testing.T) {
		e := newEvictable(t, Options{}, uses)
		for _, src := range e.src {
			src.hook = gone
		}
		if n := e.s.evict(t.Context(), 1<<30, true); n != 0 {
			t.Errorf("evicted %d bytes", n)
		}
		for _, src := range e.src {
			src.hook = nil
		}
		e.want(map[string]string{"b-used": "012345", "c-unused": "01234567", "cc-used": "01234567"})
	})
	t.Run("source gone, after a restart", func(t *testing.T) {
		e := newEvictable(t, Options{}, map[string]Use{"c-unused": Unused})
		e.src["c-unused"].hook = gone
		l := e.layers["c-unused"]
		for i := range l.spans { // nothing has been checked yet
			l.mark(i, present, absent)
			l.mark(i, absent, recorded)
		}
		if n := e.s.evict(t.Context(), 1<<30, true); n != 0 {
			t.Errorf("evicted %d bytes", n)
		}
	})
	t.Run("source lies", func(t *testing.T) {
		e := newEvictable(t, Options{}, uses)
		e.src["c-unused"].hook = func(_ context.Context, _ int, p []byte, _ int64) error { p[0] ^= 1; return nil }
		e.s.evict(t.Context(), 7*evictSpan, true)
		e.src["c-unused"].hook = nil
		e.want(map[string]string{"b-used": "", "c-unused": "01234567", "cc-used": "0123456"})
	})
	t.Run("soft", func(t *testing.T) {
		e := newEvictable(t, Options{age: 800 * time.Second}, uses)
		age := func(spans, layers uint32) {
			for _, l := range e.layers {
				l.used.Store(layers)
				for i := range l.ages {
					l.ages[i].Store(spans + uint32(i)*100)
				}
			}
		}
		now := e.s.clock()
		age(now, now)
		if n := e.s.evict(t.Context(), 1<<30, false); n != 0 {
			t.Errorf("evicted %d bytes of what was just read", n)
		}
		age(1, 700)
		if n := e.s.evict(t.Context(), 1<<30, false); n != 11*evictSpan {
			t.Errorf("evicted %d spans", n/evictSpan)
		}
		e.want(map[string]string{"b-used": "345", "c-unused": "", "cc-used": "01234567"})
	})
}

// TestReserve has others use up the disk: what is not in use goes, Fill waits, and goes on
// when they give it back.
func TestReserve(t *testing.T) {
	const disk = 100 << 20
	var mu sync.Mutex
	free := int64(disk / 2)
	room := newTold()
	e := newEvictable(t, Options{age: 120 * time.Second, Reserve: func(size int64) int64 { return size / 5 }, OnRoom: room.tell},
		map[string]Use{"a-unused": Unused, "b-used": InUse})
	e.read(120)
	e.s.room.mu.Lock()
	e.s.room.free = func() (int64, int64, error) { mu.Lock(); defer mu.Unlock(); return free, disk, nil }
	e.s.room.mu.Unlock()
	setFree := func(n int64) {
		mu.Lock()
		free = n
		mu.Unlock()
		e.s.room.call()
	}
	setFree(disk / 10)
	room.want(t, Low)
	if got := e.present(); got["a-unused"] != "012345" {
		t.Errorf("on disk are %v", got) // it was read a moment ago
	}
	e.read(0)
	n := e.src["b-used"].requests()
	res := make(chan error)
	go func() { res <- e.layers["b-used"].Fill(t.Context()) }()
	mustRead(t, e.layers["b-used"], e.data, 6*evictSpan, 10) // readers are served, and what they read is written
	settled(t, e.layers["b-used"])
	e.s.room.look(t.Context())
	if got := e.present(); got["a-unused"] != "" || got["b-used"][:7] != "0123456" {
		t.Errorf("on disk are %v", got)
	}
	if m := e.src["b-used"].requests(); m != n+1 {
		t.Errorf("%d requests", m-n)
	}
	setFree(disk / 2)
	must(t, <-res)
	room.want(t, Enough)
}

// TestMaxBytes reads more than may be on disk.
func TestMaxBytes(t *testing.T) {
	const limit = 20 * evictSpan
	e := newEvictable(t, Options{MaxBytes: limit}, map[string]Use{"a": Unused, "b": InUse, "c": Unused, "d": Unused, "e": InUse})
	r := rand.New(rand.NewPCG(1, 2))
	keys := slices.Sorted(mapKeys(e.uses))
	for range 300 {
		l := e.layers[keys[r.IntN(len(keys))]]
		off := r.Int64N(8*evictSpan - 1000)
		mustRead(t, l, e.data, off, 1000)
		if n := e.s.Stats().Bytes; n > limit+2*evictSpan { // as many as are written at the same time
			t.Fatalf("%d bytes on disk, more than %d", n, limit)
		}
	}
	if e.s.Stats().Evicted == 0 {
		t.Error("nothing was evicted")
	}
	// Fill takes only what is to spare.
	ctx, cancel := context.WithCancel(t.Context())
	res := make(chan error)
	go func() { res <- e.layers["e"].Fill(ctx) }()
	e.s.room.look(ctx)
	cancel()
	if err := <-res; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestEvictCrash ends between each step of an eviction; the next process reads the right bytes.
func TestEvictCrash(t *testing.T) {
	d := plainLayer(8, evictSpan)
	for step, do := range map[string]func(*Layer){
		"hole": func(l *Layer) { must(t, l.disk.punch(evictSpan, 3*evictSpan)) },
		"record": func(l *Layer) {
			must(t, l.disk.punch(evictSpan, 3*evictSpan))
			l.disk.forget(1, 3)
		},
		"no hole": func(l *Layer) { l.disk.forget(1, 4) },
	} {
		t.Run(step, func(t *testing.T) {
			dir := t.TempDir()
			s, err := Open(dir, Options{})
			must(t, err)
			l := mustLayer(t, s, d, d.source())
			mustRead(t, l, d, 0, 6*evictSpan)
			settled(t, l)
			do(l)
			must(t, s.Close())
			l = mustLayer(t, mustOpen(t, dir, Options{}), d, d.source())
			mustRead(t, l, d, 0, int64(len(d.plain)))
			settled(t, l)
			mustRead(t, l, d, 0, int64(len(d.plain)))
		})
	}
}

// TestEvictBetween evicts what is handed out as an extent, or is being digested.
func TestEvictBetween(t *testing.T) {
	e := newEvictable(t, Options{}, map[string]Use{"c": Unused})
	l := e.layers["c"]
	x, ok := l.Extent(0, evictSpan, 8*evictSpan)
	if !ok {
		t.Fatal("no extent")
	}
	done := make(chan int64)
	go func() {
		n, err := l.drop([]int{0, 1, 2})
		if err != nil {
			t.Error(err)
		}
		done <- n
	}()
	p := make([]byte, evictSpan)
	for range 100 {
		if _, err := unix.Pread(x.Fd, p, x.Off); err != nil || !bytes.Equal(p, e.data.plain[:evictSpan]) {
			t.Fatalf("other bytes, %v", err)
		}
	}
	x.Release()
	if n := <-done; n != 3*evictSpan {
		t.Errorf("evicted %d bytes", n)
	}
	if _, ok := l.Extent(0, evictSpan, 8*evictSpan); ok || l.Complete() {
		t.Error("an extent of what is evicted")
	}
	if _, err := l.Sum(t.Context()); !errors.Is(err, ErrIncomplete) {
		t.Errorf("digest of half a layer: %v", err)
	}
	if err := l.ReadLocal(make([]byte, 10), 3*evictSpan-5); !errors.Is(err, ErrIncomplete) {
		t.Errorf("local read of what is evicted: %v", err)
	}
	must(t, l.ReadLocal(p, 3*evictSpan))
	e.want(map[string]string{"c": "34567"})
}

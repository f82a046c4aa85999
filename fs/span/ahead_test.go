// SPDX-License-Identifier: Apache-2.0

package span

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
)

// bigLayer returns the zInfo of a layer of n spans of 256 KiB, compressed by half; it
// has no bytes.
func bigLayer(n int) *ztoc.ZInfo {
	const size = 256 << 10
	zi := &ztoc.ZInfo{CompressedSize: int64(n) * size / 2, UncompressedSize: int64(n) * size}
	for i := range int64(n) {
		zi.Spans = append(zi.Spans, ztoc.Span{
			In: ztoc.Range{Off: i * size / 2, Len: size / 2}, Out: ztoc.Range{Off: i * size, Len: size},
		})
	}
	return zi
}

// reader replays reads against observe, and counts what is read ahead.
type reader struct {
	zi     *ztoc.ZInfo
	s      streams
	asked  map[int]bool // spans read ahead
	needed map[int]bool // spans read
	waits  int          // spans read before they were read ahead
}

func newReader(zi *ztoc.ZInfo) *reader {
	return &reader{zi: zi, s: streams{limit: firstAhead}, asked: map[int]bool{}, needed: map[int]bool{}}
}

func (r *reader) read(off, n, end int64) {
	ahead := r.s.observe(r.zi, off, n, end)
	for i := ahead.from; i < ahead.to; i++ {
		r.asked[i] = true
	}
	for i := r.zi.SpanAt(off); i <= r.zi.SpanAt(off+n-1); i++ {
		if !r.asked[i] && !r.needed[i] {
			r.waits++
		}
		r.needed[i] = true
	}
}

// unused counts the spans that were read ahead in vain.
func (r *reader) unused() (n int) {
	for i := range r.asked {
		if !r.needed[i] {
			n++
		}
	}
	return n
}

func TestReadAhead(t *testing.T) {
	zi := bigLayer(400) // 100 MiB
	size := zi.UncompressedSize
	for _, c := range []struct {
		name          string
		run           func(r *reader)
		waits, unused int // at most
	}{
		{"in order", func(r *reader) {
			for off := int64(0); off < size; off += 128 << 10 {
				r.read(off, 128<<10, size)
			}
		}, 4, 0},
		{"in order, two at a time", func(r *reader) {
			for off := int64(0); off < size; off += 1 << 20 {
				r.read(off+512<<10, 512<<10, size)
				r.read(off, 512<<10, size)
			}
		}, 20, 0},
		{"with gaps", func(r *reader) {
			for off := int64(0); off < size-200<<10; off += 200 << 10 {
				r.read(off, 64<<10, size)
			}
		}, 12, 1},
		{"eight readers", func(r *reader) {
			for off := int64(0); off < size/8; off += 128 << 10 {
				for i := range int64(8) {
					r.read(i*size/8+off, 128<<10, (i+1)*size/8)
				}
			}
		}, 8 * 4, 0},
		{"to the end of one file", func(r *reader) {
			for off := int64(0); off < 10<<20; off += 128 << 10 {
				r.read(off, 128<<10, 10<<20)
			}
		}, 4, 0},
		{"half of a file", func(r *reader) {
			for off := int64(0); off < 10<<20; off += 128 << 10 {
				r.read(off, 128<<10, 20<<20)
			}
		}, 4, 20},
		{"small files in tar order", func(r *reader) {
			for off := int64(0); off < size-20<<10; off += 21 << 10 {
				r.read(off+512, 20<<10, off+512+20<<10)
			}
		}, 6, 0},
		{"at random", func(r *reader) {
			rnd := rand.New(rand.NewPCG(1, 1))
			for range 1000 {
				r.read(rnd.Int64N(size-4096), 4096, size)
			}
		}, 400, 0},
		{"around page faults", func(r *reader) {
			rnd := rand.New(rand.NewPCG(1, 1))
			for range 50 {
				off := rnd.Int64N(size-1<<20) &^ 4095
				r.read(off, 512<<10, size)
				r.read(off+512<<10, 512<<10, size)
			}
		}, 400, 60},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReader(zi)
			c.run(r)
			if u := r.unused(); r.waits > c.waits || u > c.unused {
				t.Errorf("%d waits of %d spans, want at most %d; %d spans unused, want at most %d", r.waits, len(r.needed), c.waits, u, c.unused)
			}
		})
	}
}

// TestReadAheadLearns has streams that end soon after they have begun.
func TestReadAheadLearns(t *testing.T) {
	zi := bigLayer(4000)
	r := newReader(zi)
	for i := range int64(100) {
		for off := int64(0); off < 5<<20; off += 128 << 10 {
			r.read(i*9<<20+off, 128<<10, zi.UncompressedSize)
		}
	}
	if r.s.limit > firstAhead/8 {
		t.Errorf("the limit is still %d", r.s.limit)
	}
	if u := r.unused(); u > len(r.needed)/4 {
		t.Errorf("%d of %d spans were not wanted", u, len(r.asked))
	}
}

// guesser is a layer of which nothing is on disk.
func guesser(n int) *Layer {
	l := &Layer{zi: bigLayer(n), spans: make([]atomic.Uint32, n), listed: newBitmap(n), touched: touched{bits: newBitmap(n)}, guesses: guesses{bits: newBitmap(n)}, roamed: guesses{bits: newBitmap(n)}}
	l.missing.Store(int64(n))
	return l
}

// read reads the n bytes at off of the file that lies in [begin, end), as somebody
// who did not read in order before.
func (l *Layer) read(off, n, begin, end int64) hints {
	first, last := l.zi.SpanAt(off), l.zi.SpanAt(off+n-1)
	l.streams = streams{limit: firstAhead}
	h := l.ahead(off, n, ztoc.Range{Off: begin, Len: end - begin}, first, last)
	l.touch(first, last)
	return h
}

const spanSize = 256 << 10 // of bigLayer

// TestGuess reads a layer as libraries are read, and then as a database.
func TestGuess(t *testing.T) {
	const size = spanSize
	l := guesser(1000)
	for _, c := range []struct {
		name               string
		off, n, begin, end int64
		want               hints
	}{
		{"a span that is new", 10 * size, 128 << 10, 0, 1000 * size, hints{near: spans{8, 15}}},
		{"a span that was read", 10 * size, 128 << 10, 0, 1000 * size, hints{}},
		{"a small read", 20 * size, 8 << 10, 0, 1000 * size, hints{}},
		{"near the file's end", 30 * size, 128 << 10, 0, 31*size + 1, hints{near: spans{28, 35}}},
		{"a small file", 205*size + 7, 128 << 10, 203*size + 9, 210 * size, hints{near: spans{203, 210}}},
		{"a large file's head", 300 * size, 16 << 10, 300 * size, 340*size + 5, hints{near: spans{298, 305}, tail: spans{336, 341}}},
		{"a head in a span that was read", 300*size + 32<<10, 16 << 10, 300*size + 32<<10, 350 * size, hints{tail: spans{346, 350}}},
		{"a file that is not in the layer", 400 * size, 16 << 10, 400 * size, 1001 * size, hints{}},
	} {
		l.guesses.made.Store(0) // whether the others were right is another test
		got := l.read(c.off, c.n, c.begin, c.end)
		if got.near.none() {
			got.near = spans{}
		}
		if got != c.want {
			t.Errorf("%s: guessed %v, want %v", c.name, got, c.want)
		}
	}
}

// TestGuessKnown reads spans that a profile lists, with which nothing has to be guessed.
func TestGuessKnown(t *testing.T) {
	d := plainLayer(100, 64<<10)
	src := d.source()
	s := mustOpen(t, t.TempDir(), Options{MaxFetch: 64 << 10})
	l := mustLayer(t, s, d, src)
	const known, unknown = 10 * (64 << 10), 60 * (64 << 10)
	must(t, l.Prefetch(t.Context(), []ztoc.Range{{Off: known, Len: 64 << 10}}))
	if n := src.requests(); n != 1 {
		t.Fatalf("%d requests for a list of one span", n)
	}
	file := ztoc.Range{Len: l.Size()}
	buf := make([]byte, 32<<10)
	must(t, l.ReadFile(t.Context(), buf, known, file))
	settled(t, l)
	if n := src.requests(); n != 1 {
		t.Errorf("%d requests after a read of what was listed", n)
	}
	must(t, l.ReadFile(t.Context(), buf, unknown, file))
	settled(t, l)
	if n := l.Stats().SpansFetched; n < 3 {
		t.Errorf("%d spans fetched after a read of what was not listed: nothing was guessed", n)
	}
}

// TestGuessStops guesses wrong.
func TestGuessStops(t *testing.T) {
	l := guesser(1000)
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		l.read(rnd.Int64N(900*spanSize)+60*spanSize, 128<<10, 0, 1000*spanSize)
	}
	if made, right, asked := l.guesses.made.Load(), l.guesses.right.Load(), l.guesses.demanded.Load(); made-right > freeGuess+asked/wrongShare+guessBack+guessAhead {
		t.Errorf("%d bytes guessed, %d right, of %d asked for", made, right, asked)
	}
}

// TestGuessLargeSpans reads where spans are too large to be guessed at.
func TestGuessLargeSpans(t *testing.T) {
	l := guesser(100)
	for i := range l.zi.Spans {
		l.zi.Spans[i].Out = ztoc.Range{Off: int64(i) * (9 << 20), Len: 9 << 20}
	}
	l.zi.UncompressedSize = 900 << 20
	if h := l.read(0, 16<<10, 0, 900<<20); !h.none() {
		t.Errorf("guessed %v", h)
	}
	if h := l.read(27<<20-20<<10, 16<<10, 27<<20-20<<10, 28<<20); !h.none() {
		t.Errorf("guessed %v of a file of 1 MiB in two spans", h)
	}
}

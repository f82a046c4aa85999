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
	from, to := r.s.observe(r.zi, off, n, end)
	for i := from; i < to; i++ {
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

// TestGuess reads a layer as libraries are read, and then as a database.
func TestGuess(t *testing.T) {
	zi := bigLayer(1000)
	l := &Layer{zi: zi, spans: make([]atomic.Uint32, 1000), touched: touched{bits: newBitmap(1000)}, guesses: guesses{bits: newBitmap(1000)}}
	read := func(off, n, end int64) (from, to int) {
		first, last := zi.SpanAt(off), zi.SpanAt(off+n-1)
		from, to = l.guess(n, end, first, last)
		l.touch(first, last)
		return from, to
	}
	const size = 256 << 10
	if from, to := read(10*size, 128<<10, 1000*size); from != 11 || to != 15 {
		t.Errorf("guessed [%d,%d), want 1 MiB", from, to)
	}
	if from, to := read(10*size, 128<<10, 1000*size); from != to {
		t.Errorf("guessed [%d,%d) for a span that was read", from, to)
	}
	if from, to := read(20*size, 8<<10, 1000*size); from != to {
		t.Errorf("guessed [%d,%d) for a small read", from, to)
	}
	if from, to := read(30*size, 128<<10, 32*size+1); from != 31 || to != 33 {
		t.Errorf("guessed [%d,%d), want no more than the file", from, to)
	}
	for i := range int64(8) {
		read((40+i)*size, 128<<10, 1000*size)
	}
	l.guesses.made.Store(0)
	if from, to := read(48*size, 128<<10, 1000*size); from != 49 || to != 57 {
		t.Errorf("guessed [%d,%d) behind 2 MiB, want as much", from, to)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		read(rnd.Int64N(900*size)+60*size, 128<<10, 1000*size)
	}
	if made, right, asked := l.guesses.made.Load(), l.guesses.right.Load(), l.guesses.demanded.Load(); made-right > freeGuess+asked/4+maxGuessed {
		t.Errorf("%d bytes guessed, %d right, of %d asked for", made, right, asked)
	}
}

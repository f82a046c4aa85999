// SPDX-License-Identifier: Apache-2.0

package inflate_test

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"testing"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

// A plan says how a stream is inflated. The zero plan does it in one piece, with no
// room behind the output.
type plan struct {
	slack int        // room behind the output
	r     *rand.Rand // if not nil: stops after random amounts of output
	chunk int        // if not 0: the input comes in random pieces, about that long
	refs  int        // capacity of the trace
	soft  int        // of the trace; math.MaxInt for all matches
	until int        // stop once there is that much output; 0 for the end
	drop  int        // if not 0: stops once at that much output, and goes on with the rest of the input alone
	front bool       // the guards are in front of the buffers and not behind
}

// A follower inflates with a Decoder and compares each of its steps with the trail
// of the oracle, between guard pages.
type follower struct {
	testing.TB
	d               inflate.Decoder
	inputs, outputs *arena
}

func newFollower(t testing.TB, size int) *follower {
	return &follower{TB: t, inputs: newArena(t, size), outputs: newArena(t, size)}
}

// A walk is one way through a stream.
type walk struct {
	*follower
	plan
	src      []byte
	tr       *trail
	base     int // index in the output of dst[0]
	dst      []byte
	pos      int    // in dst
	lo, hi   int    // the piece of src that is shown to the Decoder
	input    []byte // that piece
	in       int    // in input
	bit      int    // position in src
	block    int    // index of the block under way, or of the next
	sym      int    // index of the next symbol
	trace    []symbol
	expected []symbol
}

// start follows the whole stream.
func (f *follower) start(src []byte, bit int, tr *trail, p plan) {
	f.Helper()
	f.d.Reset(uint8(bit % 8))
	f.walk(src, tr, p, bit, 0, 0)
}

// resumeAt follows the stream from its i-th block on.
func (f *follower) resumeAt(src []byte, i int, tr *trail, p plan) {
	f.Helper()
	b := tr.blocks[i]
	f.d.Reset(uint8(b.bit % 8))
	f.walk(src, tr, p, b.bit, b.out, i)
}

// resumeInside follows the stream from the symbol at bit on, which is in the i-th block.
func (f *follower) resumeInside(src []byte, i, bit int, tr *trail, p plan) {
	f.Helper()
	b := tr.blocks[i]
	header := src[b.bit/8 : (b.body+7)/8]
	if err := f.d.ResumeBlock(header, uint8(b.bit%8), uint8(bit%8)); err != nil {
		f.Fatalf("resume block %d: %v", i, err)
	}
	f.checkHeader(src, b)
	f.walk(src, tr, p, bit, int(tr.outAt[bit]), i)
}

func (f *follower) walk(src []byte, tr *trail, p plan, bit, out, block int) {
	f.Helper()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	w := &walk{follower: f, plan: p, src: src, tr: tr, bit: bit, block: block}
	w.base = max(0, out-inflate.WindowSize)
	w.pos = out - w.base
	w.dst = f.outputs.back(len(tr.out) - w.base + p.slack)
	if p.front {
		w.dst = f.outputs.front(len(w.dst))
	}
	for i := range w.dst[w.pos:] {
		w.dst[w.pos+i] = 0xa5
	}
	copy(w.dst, tr.out[w.base:out])
	w.sym, _ = slices.BinarySearchFunc(tr.symbols, out, func(s symbol, out int) int { return s.out - out })
	w.lo, w.hi = bit/8, len(src)
	if p.chunk > 0 {
		w.hi = min(len(src), w.lo+1+p.r.IntN(p.chunk))
	}
	w.show()
	f.d.Trace(make([]inflate.Ref, 0, p.refs), p.soft)
	limit := 20*(len(src)+len(tr.out)) + 1000
	for calls := 0; !w.step(); calls++ {
		if calls > limit {
			f.Fatalf("no end after %d calls at bit %d, output %d", calls, w.bit, w.base+w.pos)
		}
	}
	if !bytes.Equal(w.dst[:w.pos], tr.out[w.base:][:w.pos]) {
		f.Fatalf("bytes before output %d changed later", w.base+w.pos)
	}
	if p.refs > 0 && !slices.Equal(w.trace, w.expected) {
		f.Fatalf("traced %d matches, want %d: %v, want %v", len(w.trace), len(w.expected), head(w.trace), head(w.expected))
	}
}

func head(s []symbol) []symbol { return s[:min(10, len(s))] }

// show puts the piece of the input from lo to hi between the guards.
func (w *walk) show() {
	if w.input = w.inputs.back(w.hi - w.lo); w.front {
		w.input = w.inputs.front(len(w.input))
	}
	copy(w.input, w.src[w.lo:w.hi])
}

// more shows the Decoder n more bytes of src, with or without what it has consumed.
func (w *walk) more(n int) {
	if w.r.IntN(2) == 0 {
		w.lo, w.in = w.lo+w.in, 0
	}
	w.hi = min(len(w.src), w.hi+n)
	w.show()
}

// step calls Decode once and reports whether that was the last time.
func (w *walk) step() bool {
	w.Helper()
	want := math.MaxInt
	if w.r != nil {
		want = w.pos + w.r.IntN([]int{2, 20, 700, 70000}[w.r.IntN(4)])
	}
	if w.base+w.pos < w.drop {
		want = w.drop - w.base
	}
	before := w.pos
	var stop inflate.Stop
	var err error
	w.pos, w.in, stop, err = w.d.Decode(w.dst, w.pos, want, w.input, w.in, w.hi == len(w.src))
	w.bit = 8*(w.lo+w.in) - w.d.Bits()
	w.advance()
	w.drain()
	if err != nil {
		w.failed(err, stop)
		return true
	}
	reached := w.pos >= want
	if reached && before < want && w.tr.symbols[w.sym-1].out-w.base >= want {
		w.Fatalf("stop %d at output %d, wanted %d: a symbol too late", stop, w.base+w.pos, w.base+want)
	}
	switch stop {
	case inflate.NeedOutput:
		if !reached {
			w.Fatalf("stop at output %d, wanted %d", w.base+w.pos, w.base+want)
		}
	case inflate.NeedInput:
		if w.hi == len(w.src) || len(w.input)-w.in >= inflate.MinInput {
			w.Fatalf("needs input, has %d bytes, last is %v", len(w.input)-w.in, w.hi == len(w.src))
		}
		w.more(1 + w.r.IntN(w.chunk))
	case inflate.BlockEnd, inflate.StreamEnd:
		w.ended(stop)
	case inflate.RefsFull:
		if w.refs == 0 {
			w.Fatalf("trace full, there is none")
		}
	default:
		w.Fatalf("stop %d", stop)
	}
	switch {
	case w.chunk > 0 && stop != inflate.NeedInput && w.r.IntN(4) == 0:
		w.more(0)
	case w.drop > 0 && reached && before < want:
		w.lo, w.in = w.lo+w.in, 0
		w.show()
	}
	return stop == inflate.StreamEnd || w.until > 0 && w.base+w.pos >= w.until
}

// advance compares the new output and the position.
func (w *walk) advance() {
	w.Helper()
	tr, out := w.tr, w.base+w.pos
	if w.pos < 0 || out > len(tr.out) {
		w.Fatalf("output ends at %d, want %d", out, len(tr.out))
	}
	first := w.base + w.pos
	for ; w.sym < len(tr.symbols) && tr.symbols[w.sym].out < out; w.sym++ {
		s := tr.symbols[w.sym]
		first = min(first, s.out)
		if s.dist > 0 && s.out-s.dist-w.base < w.soft {
			w.expected = append(w.expected, s)
		}
	}
	if !bytes.Equal(w.dst[first-w.base:w.pos], tr.out[first:out]) {
		w.Fatalf("output %d to %d differs", first, out)
	}
	end := tr.err == nil && w.bit == (tr.bit+7)&^7
	if w.bit < 0 || w.bit >= len(tr.outAt) || int(tr.outAt[w.bit]) != out && !end {
		w.Fatalf("output is %d at bit %d: not between symbols", out, w.bit)
	}
}

// drain takes what was traced.
func (w *walk) drain() {
	for _, r := range w.d.Refs() {
		w.trace = append(w.trace, symbol{8*w.lo + int(r.Bit), w.base + int(r.Pos), int(r.Dist), int(r.Len)})
	}
	w.d.Trace(w.d.Refs(), w.soft)
}

// ended compares the end of a block.
func (w *walk) ended(stop inflate.Stop) {
	w.Helper()
	if w.block >= len(w.tr.blocks) {
		w.Fatalf("stop %d, there is no block %d", stop, w.block)
	}
	b := w.tr.blocks[w.block]
	end := b.end
	if b.final {
		end = (end + 7) &^ 7
	}
	if w.bit != end || (stop == inflate.StreamEnd) != b.final {
		w.Fatalf("stop %d, block %d ends at bit %d, want %d, final %v", stop, w.block, w.bit, end, b.final)
	}
	w.checkHeader(w.src, b)
	w.block++
}

// failed compares a fault.
func (w *walk) failed(err error, stop inflate.Stop) {
	w.Helper()
	if w.tr.err == nil || !errors.Is(err, w.tr.err) || stop != 0 {
		w.Fatalf("at bit %d, output %d: %v, stop %d, want %v at bit %d", w.bit, w.base+w.pos, err, stop, w.tr.err, w.tr.bit)
	}
	if w.bit != w.tr.bit || w.base+w.pos != len(w.tr.out) {
		w.Fatalf("%v: at bit %d, output %d, want bit %d, output %d", err, w.bit, w.base+w.pos, w.tr.bit, len(w.tr.out))
	}
}

// checkHeader compares the Decoder's header with that of b.
func (f *follower) checkHeader(src []byte, b block) {
	f.Helper()
	p, n := f.d.Header()
	if n != b.body-b.bit || len(p) != (b.bit%8+n+7)/8 {
		f.Fatalf("header of %d bits in %d bytes, want %d bits from bit %d on", n, len(p), b.body-b.bit, b.bit%8)
	}
	for i := range n {
		k := b.bit%8 + i
		if p[k/8]>>(k%8)&1 != src[b.bit/8+k/8]>>(k%8)&1 {
			f.Fatalf("bit %d of the header differs", i)
		}
	}
}

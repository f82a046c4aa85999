// SPDX-License-Identifier: Apache-2.0

package inflate_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

// maxStream is the most output that the tests of hand-made streams make room for.
const maxStream = 1 << 20

// TestStreams inflates every stream of streams() in every way.
func TestStreams(t *testing.T) {
	refs := newReferences()
	f := newFollower(t, maxStream+1000)
	for _, s := range streams() {
		t.Run(s.name, func(t *testing.T) {
			f.TB = t
			for shift := range 8 {
				w := &writer{}
				w.bits(0x55, shift)
				s.write(w)
				tr := inflateSlowly(w.p, shift, nil, maxStream)
				if !errors.Is(tr.err, s.err) || len(tr.out) != s.out {
					t.Fatalf("the oracle: %v, %d bytes, want %v, %d", tr.err, len(tr.out), s.err, s.out)
				}
				if shift == 0 {
					refs.check(t, w.p, tr)
				}
				if len(tr.out) > 3000 && shift != 3 {
					f.start(w.p, shift, tr, plan{slack: shift * 100})
					continue
				}
				if tr.err == nil && shift%2 != 0 {
					w.bits(-1, 800) // means nothing, but there is more input than a symbol needs
					tr = inflateSlowly(w.p, shift, nil, maxStream)
				}
				f.everyWay(w.p, shift, tr)
			}
		})
	}
}

// everyWay follows src in every way there is.
func (f *follower) everyWay(src []byte, bit int, tr *trail) {
	f.Helper()
	for _, p := range []plan{
		{}, {slack: 1000}, {front: true}, {slack: 1, front: true},
		{refs: 1, soft: math.MaxInt}, {refs: 5, soft: 40, slack: 500}, {refs: 5, soft: -70000, slack: 500}, {refs: 100000, soft: math.MaxInt, slack: 500}, {refs: 7, slack: 500},
	} {
		if errors.Is(tr.err, inflate.ErrRoom) {
			p.slack = 0
		}
		f.start(src, bit, tr, p)
	}
	r := rand.New(rand.NewPCG(uint64(len(src)), uint64(bit)))
	for range 5 {
		f.start(src, bit, tr, randomPlan(r, tr))
	}
	f.everyRoom(r, src, bit, tr)
	f.everyPlace(r, src, tr, 25)
}

// randomPlan returns a plan with stops and input in pieces.
func randomPlan(r *rand.Rand, tr *trail) plan {
	p := plan{
		r: r, slack: r.IntN(2) * r.IntN(600), chunk: r.IntN(2) * (1 + r.IntN(3000)), front: r.IntN(2) == 0,
		refs: r.IntN(2) * (1 + r.IntN(50)), soft: []int{0, r.IntN(len(tr.out) + 1), math.MaxInt}[r.IntN(3)],
	}
	if errors.Is(tr.err, inflate.ErrRoom) {
		p.slack = 0
	}
	return p
}

// everyRoom follows src into buffers too small for it.
func (f *follower) everyRoom(r *rand.Rand, src []byte, bit int, tr *trail) {
	f.Helper()
	step := 1 + len(tr.out)/25
	for room := 0; room < len(tr.out); room += 1 + r.IntN(2*step) - step/2 {
		f.start(src, bit, tr.within(room), plan{front: room%2 == 0})
	}
}

// within returns the trail as it is if there is room for so many bytes only.
func (tr *trail) within(room int) *trail {
	cut := *tr
	for i, s := range tr.symbols {
		if s.out+s.len > room {
			cut.symbols, cut.out = tr.symbols[:i], tr.out[:s.out]
			cut.err, cut.bit = inflate.ErrRoom, s.bit
			break
		}
	}
	return &cut
}

// everyPlace resumes the stream at each block and at each symbol, or at about n of them.
func (f *follower) everyPlace(r *rand.Rand, src []byte, tr *trail, n int) {
	f.Helper()
	sample := func(of int) bool { return r.IntN(1+of/n) == 0 }
	sym := 0
	for i, b := range tr.blocks {
		p := plan{slack: r.IntN(400), until: b.out + 3000}
		if errors.Is(tr.err, inflate.ErrRoom) {
			p.slack = 0
		}
		if sample(len(tr.blocks)) {
			f.resumeAt(src, i, tr, p)
		}
		for ; sym < len(tr.symbols) && (b.end == 0 || tr.symbols[sym].bit < b.end); sym++ {
			s := tr.symbols[sym]
			if b.typ == 0 || !sample(len(tr.symbols)) {
				continue
			}
			p.until = s.out + 1000
			f.resumeAt(src, i, tr, plan{slack: p.slack, until: p.until, drop: s.out, refs: 1 + r.IntN(4), soft: math.MaxInt})
			f.resumeInside(src, i, s.bit, tr, p)
			if sample(len(tr.symbols)) {
				q := randomPlan(r, tr)
				q.until = p.until
				f.resumeInside(src, i, s.bit, tr, q)
			}
		}
	}
}

// TestCut cuts streams off: short ones behind every bit, where the rest of the byte
// is zeros or ones, others behind some.
func TestCut(t *testing.T) {
	refs := newReferences()
	f := newFollower(t, maxStream+1000)
	for _, s := range streams() {
		w := &writer{}
		s.write(w)
		for _, n := range someBits(w.n) {
			for _, fill := range []int{0, 0xff} {
				cut := &writer{p: append([]byte{}, w.p[:n/8]...), n: n &^ 7}
				if n%8 != 0 {
					cut.bits(int(w.p[n/8]), n%8)
					cut.bits(fill, 8-n%8)
				}
				f.verdict(refs, cut.p)
			}
		}
	}
}

// TestFlip flips every bit of short streams, and some of others.
func TestFlip(t *testing.T) {
	refs := newReferences()
	f := newFollower(t, maxStream+1000)
	for _, s := range streams() {
		w := &writer{}
		s.write(w)
		for _, i := range someBits(w.n) {
			w.p[i/8] ^= 1 << (i % 8)
			f.verdict(refs, w.p)
			w.p[i/8] ^= 1 << (i % 8)
		}
	}
}

// someBits returns the numbers below n if there are not many, and else some of them.
func someBits(n int) (some []int) {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	const all = 300
	for i := range n {
		if n <= all || n <= 40000 && r.IntN(n) < 30 || n > 40000 && r.IntN(n) < 3 {
			some = append(some, i)
		}
	}
	return some
}

// verdict compares the fate of a stream.
func (f *follower) verdict(refs references, src []byte) *trail {
	f.Helper()
	tr := inflateSlowly(src, 0, nil, maxStream)
	refs.check(f, src, tr)
	f.start(src, 0, tr, plan{})
	if !errors.Is(tr.err, inflate.ErrRoom) {
		f.start(src, 0, tr, plan{slack: 600, refs: 9, soft: math.MaxInt})
	}
	return tr
}

// TestRandom inflates streams of random codes and symbols in every way.
func TestRandom(t *testing.T) {
	refs := newReferences()
	f := newFollower(t, maxStream+1000)
	for seed := range uint64(80) {
		src := randomStream(seed)
		tr := inflateSlowly(src, 0, nil, maxStream)
		if tr.err != nil {
			t.Fatalf("seed %d: %v", seed, tr.err)
		}
		refs.check(t, src, tr)
		f.everyWay(src, 0, tr)
	}
}

// randomStream returns a stream of blocks of all types, with random codes.
func randomStream(seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 9))
	w := &writer{}
	out := 0
	for i := range 1 + r.IntN(5) {
		if i == 2 {
			p := make([]byte, r.IntN(3000))
			w.stored(0, p)
			out += len(p)
		}
		out = w.randomBlock(r, 0, r.IntN(1500), out)
	}
	w.fixed(1).literals("end").end()
	return w.p
}

// SPDX-License-Identifier: Apache-2.0

package inflate_test

import (
	"math/rand/v2"
	"slices"
)

// A writer assembles DEFLATE streams bit by bit, well-formed or not.
type writer struct {
	p []byte
	n int // bits
}

// bits appends the n low bits of v, the lowest first.
func (w *writer) bits(v, n int) {
	for i := range n {
		if w.n%8 == 0 {
			w.p = append(w.p, 0)
		}
		w.p[w.n/8] |= byte(v >> i & 1 << (w.n % 8))
		w.n++
	}
}

// pattern appends the bits of a code, the highest first.
func (w *writer) pattern(p pattern) {
	for i := p.n - 1; i >= 0; i-- {
		w.bits(p.bits>>i, 1)
	}
}

// align fills the byte with zeros.
func (w *writer) align() { w.bits(0, -w.n&7) }

// begin appends the first three bits of a block. final is 1 for the last block.
func (w *writer) begin(final, typ int) {
	w.bits(final, 1)
	w.bits(typ, 2)
}

// stored appends a stored block.
func (w *writer) stored(final int, p []byte) {
	w.begin(final, 0)
	w.align()
	w.bits(len(p), 16)
	w.bits(len(p)^0xffff, 16)
	w.p = append(w.p, p...)
	w.n = 8 * len(w.p)
}

// fixed begins a fixed block.
func (w *writer) fixed(final int) *coder {
	w.begin(final, 1)
	lit, dist := fixedCodes()
	return &coder{w, lit, dist}
}

// dynamic begins a dynamic block with codes of the given lengths, of which there are
// at least 257 and 1.
func (w *writer) dynamic(final int, lit, dist []int) *coder {
	w.header(final, len(lit)-257, len(dist)-1, flatPre())
	pre := newCode(flatPre())
	for _, n := range append(lit[:len(lit):len(lit)], dist...) {
		w.pattern(pre.patterns[n])
	}
	return &coder{w, newCode(lit), newCode(dist)}
}

// header appends the header of a dynamic block up to the code length code.
func (w *writer) header(final, hlit, hdist int, pre []int) {
	w.begin(final, 2)
	w.bits(hlit, 5)
	w.bits(hdist, 5)
	w.bits(15, 4)
	for _, i := range preOrder {
		w.bits(pre[i], 3)
	}
}

// A repeat is a symbol of the code length alphabet: a length, or with extra bits 16, 17 or 18.
type repeat struct{ sym, extra int }

// lengths begins a dynamic block whose nlit and ndist code lengths are given by rs.
func (w *writer) lengths(final, nlit, ndist int, pre []int, rs ...repeat) *coder {
	w.header(final, nlit-257, ndist-1, pre)
	c := newCode(pre)
	lens := make([]int, 0, nlit+ndist)
	for _, r := range rs {
		w.pattern(c.patterns[r.sym])
		v, n := r.sym, 1
		switch r.sym {
		case 16:
			w.bits(r.extra, 2)
			n = 3 + r.extra
			v = 0
			if len(lens) > 0 {
				v = lens[len(lens)-1]
			}
		case 17:
			w.bits(r.extra, 3)
			v, n = 0, 3+r.extra
		case 18:
			w.bits(r.extra, 7)
			v, n = 0, 11+r.extra
		}
		lens = append(lens, slices.Repeat([]int{v}, n)...)
	}
	lens = append(lens, make([]int, max(0, nlit+ndist-len(lens)))...)
	return &coder{w, newCode(lens[:nlit]), newCode(lens[nlit:])}
}

// flatPre is a code length code of four bits for each length, without repeats.
func flatPre() []int {
	pre := make([]int, 19)
	for i := range 16 {
		pre[i] = 4
	}
	return pre
}

// repeatPre is a code length code of five bits for each, with all repeats.
func repeatPre() []int {
	pre := make([]int, 19)
	for i := range pre {
		pre[i] = 5
	}
	for i := range 13 {
		pre[i] = 4
	}
	return pre
}

// coder appends the symbols of a block.
type coder struct {
	*writer
	lit, dist code
}

func (c *coder) literals(s string) *coder {
	for i := range len(s) {
		c.pattern(c.lit.patterns[s[i]])
	}
	return c
}

// match appends a match, in the last class that has its length.
func (c *coder) match(length, dist int) *coder {
	i := classOf(lengths, length)
	return c.matchIn(i, length-lengths[i].base, dist)
}

// matchIn appends a match whose length is of class i, with the given extra bits.
func (c *coder) matchIn(i, extra, dist int) *coder {
	c.pattern(c.lit.patterns[257+i])
	c.bits(extra, lengths[i].extra)
	i = classOf(distances, dist)
	c.pattern(c.dist.patterns[i])
	c.bits(dist-distances[i].base, distances[i].extra)
	return c
}

// end ends the block.
func (c *coder) end() { c.pattern(c.lit.patterns[256]) }

// classOf returns the last class that is not above v.
func classOf(classes []class, v int) int {
	for i := len(classes) - 1; ; i-- {
		if classes[i].base <= v {
			return i
		}
	}
}

// comb returns the lengths of the code 0, 10, 110, ... whose last two symbols have
// depth bits: the i-th is that of symbols[i]. There are size symbols in all.
func comb(size, depth int, symbols ...int) []int {
	lens := make([]int, size)
	for i, s := range symbols[:depth+1] {
		lens[s] = min(i+1, depth)
	}
	return lens
}

// randomCode returns the lengths of a complete code for n of size symbols, those in
// need among them. The codes have 15 bits at most; deep is how likely a long one is
// made longer, from 0 to 1.
func randomCode(r *rand.Rand, size, n int, deep float64, need ...int) []int {
	leaves := []int{1, 1}
	for len(leaves) < n {
		i := r.IntN(len(leaves))
		if r.Float64() < deep {
			i = len(leaves) - 1
		}
		if leaves[i] == 15 {
			i = r.IntN(len(leaves))
		}
		if leaves[i] < 15 {
			leaves[i]++
			leaves = append(leaves, leaves[i])
		}
	}
	r.Shuffle(n, func(i, j int) { leaves[i], leaves[j] = leaves[j], leaves[i] })
	lens := make([]int, size)
	for _, s := range need {
		lens[s], leaves = leaves[0], leaves[1:]
	}
	for _, s := range r.Perm(size) {
		if lens[s] == 0 && len(leaves) > 0 {
			lens[s], leaves = leaves[0], leaves[1:]
		}
	}
	return lens
}

// randomBlock appends a block with random codes and n random symbols, of which all
// distances are within the out bytes before. It returns the bytes there are then.
func (w *writer) randomBlock(r *rand.Rand, final, n, out int) int {
	lit := randomCode(r, 286, 2+r.IntN(285), r.Float64(), 256)
	ndist := r.IntN(31)
	dist := make([]int, 1+r.IntN(30))
	switch {
	case ndist == 1:
		dist[r.IntN(len(dist))] = 1
	case ndist > 1:
		dist = randomCode(r, 30, ndist, r.Float64())
	}
	c := w.dynamic(final, lit, dist)
	for range n {
		s := r.IntN(286)
		if lit[s] == 0 || s == 256 {
			continue
		}
		if s < 256 {
			c.pattern(c.lit.patterns[s])
			out++
			continue
		}
		d := r.IntN(len(dist))
		if dist[d] == 0 || distances[d].base > out {
			continue
		}
		l := lengths[s-257]
		extra := r.IntN(1 << l.extra)
		c.pattern(c.lit.patterns[s])
		c.bits(extra, l.extra)
		far := r.IntN(1 << distances[d].extra)
		if distances[d].base+far > out {
			far = 0
		}
		c.pattern(c.dist.patterns[d])
		c.bits(far, distances[d].extra)
		out += l.base + extra
	}
	c.end()
	return out
}

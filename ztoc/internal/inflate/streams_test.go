// SPDX-License-Identifier: Apache-2.0

package inflate_test

import (
	"fmt"
	"io"
	"slices"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

// A stream is a hand-made one, and its fate: the fault, if any, behind so much output.
type stream struct {
	name  string
	write func(w *writer)
	err   error
	out   int
}

func streams() []stream {
	return slices.Concat(plainStreams(), windowStreams(), codeStreams(), faultyBlocks(), faultyHeaders(), faultySymbols())
}

// letters are n bytes with few repeats.
func letters(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*i>>3 + i*7)
	}
	return p
}

func plainStreams() []stream {
	ss := []stream{
		{"empty, fixed", func(w *writer) { w.fixed(1).end() }, nil, 0},
		{"empty, stored", func(w *writer) { w.stored(1, nil) }, nil, 0},
		{"empty, dynamic", func(w *writer) { w.dynamic(1, comb(257, 1, 256, 0), []int{0}).end() }, nil, 0},
		{"empty, a single one-bit code", func(w *writer) { lens := make([]int, 257); lens[256] = 1; w.dynamic(1, lens, []int{0}).end() }, nil, 0},
		{"one byte", func(w *writer) { w.fixed(1).literals("x").end() }, nil, 1},
		{"one byte, stored", func(w *writer) { w.stored(1, []byte("x")) }, nil, 1},
		{"nothing", func(w *writer) {}, io.ErrUnexpectedEOF, 0},
		{"garbage behind", func(w *writer) { w.fixed(1).literals("abc").match(30, 3).end(); w.stored(0, letters(70)) }, nil, 33},
		{"garbage behind a stored block", func(w *writer) { w.stored(1, letters(3)); w.bits(-1, 400) }, nil, 3},
		{"all literals", func(w *writer) { w.fixed(1).literals(string(letters(700))).end() }, nil, 700},
		{"empty stored blocks", func(w *writer) {
			for i := range 300 {
				w.stored(0, nil)
				if i%7 == 0 {
					w.fixed(0).end()
				}
			}
			w.stored(1, nil)
		}, nil, 0},
		{"stored and fixed by turns", func(w *writer) {
			for i := range 100 {
				w.stored(0, letters(i))
				w.fixed(0).literals("abcdef"[:i%5]).end()
			}
			w.fixed(1).match(258, 4950).end()
		}, nil, 4950 + 200 + 258},
		{"not last", func(w *writer) { w.fixed(0).literals("x").end() }, io.ErrUnexpectedEOF, 1},
	}
	for _, n := range []int{2, 8, 255, 256, 511, 512, 513, 65535} {
		ss = append(ss, stream{fmt.Sprintf("stored %d", n), func(w *writer) { w.stored(1, letters(n)) }, nil, n})
	}
	return ss
}

// windowStreams have matches of every length, and of distances at all edges.
func windowStreams() []stream {
	var ss []stream
	for _, dist := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 23, 24, 31, 32, 33, 63, 64, 65, 255, 257, 258, 4096, 32767, 32768} {
		total := 0
		for n := 3; n <= 258; n++ {
			total += n
		}
		ss = append(ss, stream{fmt.Sprintf("distance %d, all lengths", dist), func(w *writer) {
			w.stored(0, letters(dist))
			c := w.fixed(1)
			for n := 3; n <= 258; n++ {
				c.match(n, dist)
			}
			c.end()
		}, nil, dist + total}, stream{fmt.Sprintf("distance %d, one too far", dist), func(w *writer) {
			if dist == 1 {
				w.fixed(1).match(3, 1).end()
				return
			}
			w.stored(0, letters(dist-1))
			w.fixed(1).match(3, dist).end()
			w.bits(0, 400)
		}, inflate.ErrDistance, dist - 1})
	}
	return append(ss, stream{"258 as 227+31", func(w *writer) {
		w.fixed(1).literals("abc").matchIn(27, 31, 2).matchIn(28, 0, 3).literals("z").end()
	}, nil, 3 + 258 + 258 + 1}, stream{"a period crosses copies", func(w *writer) {
		c := w.fixed(1).literals(string(letters(40)))
		for dist := 1; dist < 40; dist++ {
			c.match(3+dist*5, dist).literals("x").match(258, dist)
		}
		c.end()
	}, nil, 40 + 39*(3+1+258) + 5*39*40/2})
}

// codeStreams have codes of every shape.
func codeStreams() []stream {
	var ss []stream
	use := func(c *coder) { c.literals("abab").match(3, 1).match(20, 2).literals("b").match(258, 3).end() }
	const useOut = 4 + 3 + 20 + 1 + 258
	// What is used: literals a and b, end of block, lengths 3, 20 (19-22) and 258.
	litUse := []int{'a', 'b', 256, 257, 269, 285}
	distUse := []int{0, 1, 2}
	for depth := 5; depth <= 15; depth++ {
		for turn := range len(litUse) {
			ss = append(ss, stream{fmt.Sprintf("literals and lengths of up to %d bits, turn %d", depth, turn), func(w *writer) {
				order := slices.Concat(litUse[turn:], litUse[:turn])
				for s := 0; len(order) <= depth; s++ { // the rest in front: what is used is deepest
					order = slices.Insert(order, 0, s)
				}
				use(w.dynamic(1, comb(286, depth, order...), comb(3, 2, distUse...)))
			}, nil, useOut})
		}
	}
	for depth := 2; depth <= 15; depth++ {
		for turn := range len(distUse) {
			ss = append(ss, stream{fmt.Sprintf("distances of up to %d bits, turn %d", depth, turn), func(w *writer) {
				order := slices.Concat(distUse[turn:], distUse[:turn])
				for s := 3; len(order) <= depth; s++ {
					order = slices.Insert(order, 0, s)
				}
				use(w.dynamic(1, comb(286, 5, litUse...), comb(30, depth, order...)))
			}, nil, useOut})
		}
	}
	for sub := 1; sub <= 4; sub++ {
		ss = append(ss, stream{fmt.Sprintf("literals in a subtable of %d bits", sub), func(w *writer) {
			c := w.dynamic(1, bush(286, 11, sub), comb(2, 1, 0, 1))
			for s := range 286 {
				switch n := c.lit.patterns[s].n; {
				case s < 256 && n > 0:
					c.literals(string([]byte{byte(s)}))
				case s > 256 && n > 0:
					c.matchIn(s-257, 0, 1)
				}
			}
			c.end()
		}, nil, bushOut(sub)})
	}
	for sub := 1; sub <= 4; sub++ {
		ss = append(ss, stream{fmt.Sprintf("distances in a subtable of %d bits", sub), func(w *writer) {
			w.stored(0, letters(32768))
			c := w.dynamic(1, comb(258, 2, 'x', 256, 257), bush(30, 8, sub))
			for s, d := range distances {
				if c.dist.patterns[s].n > 0 {
					c.match(3, d.base+1<<d.extra-1)
				}
			}
			c.end()
		}, nil, 32768 + 3*(8+1<<sub)})
	}
	ss = append(ss, stream{"matches of two bits", func(w *writer) {
		c := w.dynamic(1, comb(258, 2, 257, 'a', 256), []int{1}).literals("aaa")
		for i := range 200 {
			c.match(3, 1)
			if i%9 == 0 {
				c.literals("a")
			}
		}
		c.end()
	}, nil, 3 + 600 + 23})
	return append(ss, stream{"no distance code", func(w *writer) {
		w.dynamic(1, comb(257, 2, 'a', 'b', 256), []int{0}).literals("abba").end()
	}, nil, 4}, stream{"one distance code", func(w *writer) {
		w.dynamic(1, comb(258, 2, 'a', 256, 257), []int{0, 0, 1}).literals("aaa").match(3, 3).match(3, 3).literals("a").end()
	}, nil, 10}, stream{"repeats in the header", func(w *writer) {
		// a to d of 3 bits; the end of the block, a length and four distances of 2, with one repeat from the former to the latter.
		w.lengths(1, 258, 4, repeatPre(), repeat{18, 86}, repeat{3, 0}, repeat{16, 0}, repeat{18, 127}, repeat{17, 7}, repeat{17, 4},
			repeat{2, 0}, repeat{16, 2}).literals("abcd").match(3, 4).match(3, 1).end()
	}, nil, 10})
}

// bush returns a code whose first root symbols have 1, 2, ... root bits, and 1<<sub
// more root+sub. They are spread over the alphabet of size symbols, the end of the
// block among the long ones if it is one of them.
func bush(size, root, sub int) []int {
	lens := make([]int, size)
	n := root + 1<<sub
	for i := range n {
		s := i * (size - 1) / (n - 1)
		if size == 286 && i == n-2 {
			s = 256
		}
		lens[s] = min(i+1, root)
		if i >= root {
			lens[s] = root + sub
		}
	}
	return lens
}

// bushOut is the output of one of each symbol of bush(286, 11, sub).
func bushOut(sub int) (n int) {
	for s, bits := range bush(286, 11, sub) {
		switch {
		case bits == 0 || s == 256:
		case s < 256:
			n++
		default:
			n += lengths[s-257].base
		}
	}
	return n
}

// faultyBlocks have faults outside of dynamic headers.
func faultyBlocks() []stream {
	return withTail([]stream{
		{"block type 3", func(w *writer) { w.begin(1, 3) }, inflate.ErrHeader, 0},
		{"block type 3 behind others", func(w *writer) { w.stored(0, letters(9)); w.fixed(0).literals("x").end(); w.begin(0, 3) }, inflate.ErrHeader, 10},
		{"stored, complement of another length", func(w *writer) { w.stored(0, letters(5)); w.begin(1, 0); w.align(); w.bits(5, 16); w.bits(^4, 16) }, inflate.ErrStored, 5},
		{"stored, no complement", func(w *writer) { w.begin(1, 0); w.align(); w.bits(0, 32) }, inflate.ErrStored, 0},
		{"length 286 of the fixed code", func(w *writer) { c := w.fixed(1).literals("ab"); c.pattern(c.lit.patterns[286]) }, inflate.ErrCode, 2},
		{"length 287 of the fixed code", func(w *writer) { c := w.fixed(1).literals("ab"); c.pattern(c.lit.patterns[287]) }, inflate.ErrCode, 2},
		{"distance 30 of the fixed code", func(w *writer) {
			c := w.fixed(1).literals("ab")
			c.pattern(c.lit.patterns[270])
			c.bits(1, 2)
			c.pattern(pattern{30, 5})
		}, inflate.ErrCode, 2},
		{"distance 31 of the fixed code", func(w *writer) {
			c := w.fixed(1).literals("ab")
			c.pattern(c.lit.patterns[285])
			c.pattern(pattern{31, 5})
		}, inflate.ErrCode, 2},
	})
}

// faultyHeaders have faults in dynamic headers.
func faultyHeaders() []stream {
	ss := []stream{
		{name: "287 literals and lengths", write: func(w *writer) { w.header(1, 30, 0, flatPre()) }},
		{name: "288 literals and lengths", write: func(w *writer) { w.header(1, 31, 0, flatPre()) }},
		{name: "31 distances", write: func(w *writer) { w.header(1, 0, 30, flatPre()) }},
		{name: "32 distances", write: func(w *writer) { w.header(1, 0, 31, flatPre()) }},
		{name: "no code length code", write: func(w *writer) { w.header(1, 0, 0, make([]int, 19)); w.bits(0, 1) }},
		{name: "code length code of one symbol", write: func(w *writer) {
			w.lengths(1, 257, 1, slices.Concat(make([]int, 18), []int{1}), repeat{18, 127}, repeat{18, 109})
		}},
		{name: "code length code of one symbol, another", write: func(w *writer) { w.header(1, 0, 0, slices.Concat(make([]int, 18), []int{1})); w.bits(1, 1) }},
		{name: "code length code of one symbol of two bits", write: func(w *writer) { w.header(1, 0, 0, slices.Concat(make([]int, 18), []int{2})) }},
		{name: "code length code over-subscribed", write: func(w *writer) { w.header(1, 0, 0, slices.Concat([]int{1, 1, 7}, make([]int, 16))) }},
		{name: "code length code incomplete", write: func(w *writer) { w.header(1, 0, 0, slices.Concat([]int{1, 2}, make([]int, 17))) }},
		{name: "repeat of nothing", write: func(w *writer) { w.lengths(1, 257, 1, repeatPre(), repeat{16, 0}) }},
		{name: "repeat over the end", write: func(w *writer) {
			w.lengths(1, 257, 1, repeatPre(), repeat{18, 127}, repeat{18, 107}, repeat{1, 0}, repeat{16, 0})
		}},
		{name: "zeros over the end", write: func(w *writer) {
			w.lengths(1, 257, 1, repeatPre(), repeat{18, 127}, repeat{18, 107}, repeat{1, 0}, repeat{17, 0})
		}},
		{name: "many zeros over the end", write: func(w *writer) { w.lengths(1, 257, 30, repeatPre(), repeat{18, 127}, repeat{18, 127}, repeat{18, 1}) }},
	}
	lens := func(name string, lit, dist []int) {
		ss = append(ss, stream{name: name, write: func(w *writer) { w.dynamic(1, lit, dist) }})
	}
	lens("no end of block", comb(257, 1, 0, 1), []int{0})
	lens("no literals", make([]int, 257), []int{0})
	lens("literals over-subscribed", set(comb(257, 2, 0, 1, 256), 3, 15), []int{0})
	lens("literals incomplete", set(comb(257, 2, 0, 1, 256), 1, 3), []int{0})
	lens("literals incomplete by one code of 15 bits", set(comb(257, 15, 256, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), 15, 0), []int{0})
	lens("one code of two bits", set(make([]int, 257), 256, 2), []int{0})
	lens("two codes of two bits", set(set(make([]int, 257), 256, 2), 0, 2), []int{0})
	lens("distances over-subscribed", comb(257, 1, 0, 256), []int{1, 1, 15})
	lens("distances incomplete", comb(257, 1, 0, 256), []int{1, 2})
	lens("one distance of two bits", comb(257, 1, 0, 256), []int{2})
	lens("one distance of 15 bits", comb(257, 1, 0, 256), []int{0, 15})
	for i := range ss {
		ss[i].err = inflate.ErrHeader
	}
	return withTail(ss)
}

// set returns lens with another length of symbol s.
func set(lens []int, s, n int) []int {
	lens[s] = n
	return lens
}

// faultySymbols have faults in the symbols of dynamic blocks.
func faultySymbols() []stream {
	one := func(size, s int) []int { return set(make([]int, size), s, 1) }
	return withTail([]stream{
		{"other bit of a single code", func(w *writer) { w.dynamic(1, one(257, 256), []int{0}).bits(1, 1) }, inflate.ErrCode, 0},
		{"a length without distances", func(w *writer) {
			c := w.dynamic(1, comb(258, 2, 256, 'a', 257), []int{0}).literals("aaaa")
			c.pattern(c.lit.patterns[257])
			c.bits(0, 1)
		}, inflate.ErrCode, 4},
		{"other bit of a single distance", func(w *writer) {
			c := w.dynamic(1, comb(258, 2, 256, 'a', 257), one(1, 0)).literals("aaaa").match(3, 1)
			c.pattern(c.lit.patterns[257])
			c.bits(1, 1)
		}, inflate.ErrCode, 7},
		{"a distance of two bits too far", func(w *writer) {
			w.dynamic(1, comb(258, 2, 257, 'a', 256), []int{0, 1}).literals("a").match(3, 2)
		}, inflate.ErrDistance, 1},
		{"a distance of 15 bits too far", func(w *writer) {
			w.stored(0, letters(20000))
			order := make([]int, 16)
			for i := range order {
				order[i] = 14 + i
			}
			w.dynamic(1, comb(258, 2, 256, 'a', 257), comb(30, 15, order...)).literals("aaaa").match(3, 20004).match(3, 20008)
		}, inflate.ErrDistance, 20007},
	})
}

// withTail returns the streams, and each once more with something behind.
func withTail(ss []stream) []stream {
	for _, s := range ss {
		ss = append(ss, stream{s.name + ", not at the end", func(w *writer) { s.write(w); w.bits(0, 60); w.bits(-1, 600) }, s.err, s.out})
	}
	return ss
}

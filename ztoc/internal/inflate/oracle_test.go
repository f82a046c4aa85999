// SPDX-License-Identifier: Apache-2.0

package inflate_test

import (
	"io"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

// The oracle inflates bit by bit, as RFC 1951 is written, and notes where everything was.

// A symbol is one literal, match or stored byte.
type symbol struct {
	bit  int // where its first bit is in the input
	out  int // where its first byte is in the output
	dist int // 0 for a single byte
	len  int
}

// A block is one that has ended, or the last one begun.
type block struct {
	bit   int // of its header
	body  int // of the first bit behind the header
	out   int // of its first byte
	final bool
	typ   int
	end   int // the first bit behind the block; 0 if it was not reached
}

// A trail is what there is to know about a stream.
type trail struct {
	out     []byte // the history in front
	symbols []symbol
	blocks  []block // whose headers are sound
	outAt   []int32 // by the bits of the input: where a symbol, header or body begins, or a block ends, len(out) there; else -1

	err error // nil: the final block has ended
	bit int   // behind the stream, or of the header or symbol at fault
}

// oracle is the state of the inflating.
type oracle struct {
	trail
	src  []byte
	bit  int
	room int
}

// inflateSlowly inflates src from a block header at a bit on. The output must not become
// longer than room bytes, the history included.
func inflateSlowly(src []byte, bit int, history []byte, room int) *trail {
	o := &oracle{src: src, bit: bit, room: room}
	o.out = append(o.out, history...)
	o.outAt = make([]int32, 8*len(src)+1)
	for i := range o.outAt {
		o.outAt[i] = -1
	}
	for final := false; !final && o.err == nil; {
		o.begin()
		o.err = o.block(&final)
	}
	if o.err == nil {
		o.begin()
	}
	return &o.trail
}

// A fault ends the inflating from deep inside.
type fault struct{ error }

func (o *oracle) block(final *bool) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = r.(fault).error
		}
	}()
	b := block{bit: o.bit, out: len(o.out)}
	b.final = o.take(1) == 1
	b.typ = o.take(2)
	var lit, dist code
	stored := 0
	switch b.typ {
	case 0:
		o.bit = (o.bit + 7) &^ 7
		stored = o.take(16)
		o.check(o.take(16) == stored^0xffff, inflate.ErrStored)
	case 1:
		lit, dist = fixedCodes()
	case 2:
		lit, dist = o.dynamicCodes()
	default:
		panic(fault{inflate.ErrHeader})
	}
	b.body = o.bit
	o.outAt[o.bit] = int32(len(o.out))
	o.blocks = append(o.blocks, b)
	if b.typ == 0 {
		for range stored {
			o.begin()
			o.emit(0, byte(o.take(8)))
		}
	} else {
		for o.symbol(lit, dist) {
		}
	}
	o.blocks[len(o.blocks)-1].end = o.bit
	*final = b.final
	return nil
}

// symbol decodes a symbol and reports false for the end of the block.
func (o *oracle) symbol(lit, dist code) bool {
	o.begin()
	n := o.decode(lit, inflate.ErrCode)
	switch {
	case n < 256:
		o.emit(0, byte(n))
		return true
	case n == 256:
		return false
	}
	o.check(n < 286, inflate.ErrCode)
	length := lengths[n-257].base + o.take(lengths[n-257].extra)
	n = o.decode(dist, inflate.ErrCode)
	o.check(n < 30, inflate.ErrCode)
	back := distances[n].base + o.take(distances[n].extra)
	o.check(back <= len(o.out), inflate.ErrDistance)
	p := make([]byte, length)
	for i := range p {
		p[i] = o.out[len(o.out)-back+i%back]
	}
	o.emit(back, p...)
	return true
}

// begin notes that a symbol or header begins, where a fault would be.
func (o *oracle) begin() {
	o.trail.bit = o.bit
	o.outAt[o.bit] = int32(len(o.out))
}

// emit appends the bytes of a symbol.
func (o *oracle) emit(dist int, p ...byte) {
	o.check(len(p) <= o.room-len(o.out), inflate.ErrRoom)
	o.symbols = append(o.symbols, symbol{bit: o.trail.bit, out: len(o.out), dist: dist, len: len(p)})
	o.out = append(o.out, p...)
}

// dynamicCodes reads the codes of a dynamic block, RFC 1951, 3.2.7.
func (o *oracle) dynamicCodes() (lit, dist code) {
	nlit, ndist, npre := o.take(5)+257, o.take(5)+1, o.take(4)+4
	o.check(nlit <= 286 && ndist <= 30, inflate.ErrHeader)
	pre := make([]int, 19)
	for i := range npre {
		pre[preOrder[i]] = o.take(3)
	}
	o.check(sound(pre), inflate.ErrHeader)
	var lens []int
	for c := newCode(pre); len(lens) < nlit+ndist; {
		n := o.decode(c, inflate.ErrHeader)
		v, repeat := n, 1
		switch n {
		case 16:
			repeat = 3 + o.take(2)
			o.check(len(lens) > 0, inflate.ErrHeader)
			v = lens[len(lens)-1]
		case 17:
			v, repeat = 0, 3+o.take(3)
		case 18:
			v, repeat = 0, 11+o.take(7)
		}
		for range repeat {
			lens = append(lens, v)
		}
		o.check(len(lens) <= nlit+ndist, inflate.ErrHeader)
	}
	o.check(lens[256] > 0 && sound(lens[:nlit]) && sound(lens[nlit:]), inflate.ErrHeader)
	return newCode(lens[:nlit]), newCode(lens[nlit:])
}

// take reads a number of n bits.
func (o *oracle) take(n int) (v int) {
	for i := range n {
		o.check(o.bit < 8*len(o.src), io.ErrUnexpectedEOF)
		v |= int(o.src[o.bit/8]) >> (o.bit % 8) & 1 << i
		o.bit++
	}
	return v
}

// decode reads a symbol of c; bits with which no symbol begins are the given error.
func (o *oracle) decode(c code, err error) int {
	for p := (pattern{}); ; {
		o.check(p.n < max(1, c.longest), err)
		p.bits = p.bits<<1 | o.take(1)
		p.n++
		if i := p.bits - c.first[p.n]; i < len(c.symbols[p.n]) {
			return c.symbols[p.n][i]
		}
	}
}

func (o *oracle) check(ok bool, err error) {
	if !ok {
		panic(fault{err})
	}
}

// A pattern is n bits, the first of them the highest.
type pattern struct{ bits, n int }

// A code is a prefix code, RFC 1951, 3.2.2: the symbols whose patterns have n bits
// have those from first[n] on.
type code struct {
	first    [17]int
	symbols  [16][]int
	patterns []pattern // of the symbols
	longest  int
}

// newCode returns the canonical code with the given lengths, 0 for symbols that do not occur.
func newCode(lens []int) code {
	c := code{patterns: make([]pattern, len(lens))}
	for sym, n := range lens {
		if n > 0 {
			c.symbols[n] = append(c.symbols[n], sym)
			c.longest = max(c.longest, n)
		}
	}
	for n := 1; n < 16; n++ {
		c.first[n+1] = (c.first[n] + len(c.symbols[n])) << 1
		for i, sym := range c.symbols[n] {
			c.patterns[sym] = pattern{c.first[n] + i, n}
		}
	}
	return c
}

// sound reports whether lens are those of a code: of one that uses all bit
// patterns, or of a single symbol of one bit, or of none.
func sound(lens []int) bool {
	used, symbols := 0, 0
	for _, n := range lens {
		if n > 0 {
			used += 1 << (15 - n)
			symbols++
		}
	}
	return used == 1<<15 || symbols == 0 || symbols == 1 && used == 1<<14
}

// fixedCodes returns the codes of RFC 1951, 3.2.6.
func fixedCodes() (lit, dist code) {
	lens := make([]int, 288)
	for i := range lens {
		switch {
		case i < 144:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		case i < 280:
			lens[i] = 7
		default:
			lens[i] = 8
		}
	}
	five := make([]int, 32)
	for i := range five {
		five[i] = 5
	}
	return newCode(lens), newCode(five)
}

// A class is a symbol that stands for base and what extra bits add to it.
type class struct{ base, extra int }

// The tables of RFC 1951, 3.2.5 and 3.2.7.
var (
	lengths = []class{
		{3, 0}, {4, 0}, {5, 0}, {6, 0}, {7, 0}, {8, 0}, {9, 0}, {10, 0}, {11, 1}, {13, 1}, {15, 1}, {17, 1},
		{19, 2}, {23, 2}, {27, 2}, {31, 2}, {35, 3}, {43, 3}, {51, 3}, {59, 3}, {67, 4}, {83, 4}, {99, 4}, {115, 4},
		{131, 5}, {163, 5}, {195, 5}, {227, 5}, {258, 0},
	}
	distances = []class{
		{1, 0}, {2, 0}, {3, 0}, {4, 0}, {5, 1}, {7, 1}, {9, 2}, {13, 2}, {17, 3}, {25, 3}, {33, 4}, {49, 4}, {65, 5}, {97, 5},
		{129, 6}, {193, 6}, {257, 7}, {385, 7}, {513, 8}, {769, 8}, {1025, 9}, {1537, 9}, {2049, 10}, {3073, 10},
		{4097, 11}, {6145, 11}, {8193, 12}, {12289, 12}, {16385, 13}, {24577, 13},
	}
	preOrder = []int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
)

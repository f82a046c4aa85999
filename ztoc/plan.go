// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"math"
	"math/bits"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

// MinCompactSpan is the least span size of a compact zTOC, in uncompressed bytes.
const MinCompactSpan = 64 << 10 // zones must not overlap

// The price of a candidate is twice the bytes of its window, which compress to about
// half, and their places, plus what the header of the block takes if it lies within one.
const (
	priceWindow = 2
	priceHeader = 3
)

// planner chooses the checkpoints of a compact zTOC, one for each grid point: where
// the span behind it refers to the fewest of the bytes before. Of each zone it keeps
// the bytes, the matches and the blocks, and chooses once it has seen as much behind
// the grid point as can refer to what is before.
type planner struct {
	size, zone int64
	grid       int64 // the grid point to choose for

	base   int64       // uncompressed offset of data[0], and of what follows
	data   []byte      // the bytes up to the grid point, or as far as they have been seen
	refs   []planRef   // that begin in the zone, or in the window behind it
	blocks []planBlock // the one that the zone begins in, and those behind it
	first  int64       // compressed position of the oldest of refs and blocks, in bits

	cover  []uint64 // bitmap, by offset from base: a byte is referred to
	ranges []planRange
	cuts   []cut
	spans  []Span // In.Off, Bits and Out.Off are set
	out    *windowWriter
}

// planRef is a match. Its place is relative to the planner's base and first.
type planRef struct {
	out, bit  uint32
	dist, len uint16
}

// planBlock is where a block begins.
type planBlock struct {
	out, bit   int64
	header     []byte
	headerBits int
}

// planRange is a range of data.
type planRange struct {
	off, end int
}

// choice is a candidate.
type choice struct {
	price int
	out   int // relative to base
	block int // index of the block that it begins, or is within
	bit   int64
	inner bool // it lies within the block
}

// newPlanner returns a planner of checkpoints about every size uncompressed bytes,
// at least MinCompactSpan. Their windows go to out.
func newPlanner(size int64, out *spool) *planner {
	p := &planner{size: size, zone: zoneOf(size), out: newWindowWriter(size, out)}
	p.cover = make([]uint64, (p.zone+2*inflate.WindowSize)/64+2)
	p.advance(size)
	return p
}

// advance makes grid the grid point to choose for.
func (p *planner) advance(grid int64) {
	p.grid = grid
	p.base = max(0, grid-p.zone-inflate.WindowSize)
	p.data, p.refs = p.data[:0], p.refs[:0]
	p.dropBlocks()
}

// dropBlocks forgets the blocks before the one that the zone begins in.
func (p *planner) dropBlocks() {
	b := p.blocks
	i := 0
	for i+1 < len(b) && b[i+1].out <= p.grid-p.zone {
		i++
	}
	if i > 0 {
		for k := i; k < len(b); k++ {
			b[k-i], b[k] = b[k], b[k-i] // their memory is used again
		}
		p.blocks = b[:len(b)-i]
	}
}

// add takes the next piece; see piece.go.
func (p *planner) add(x *piece) (cuts []cut, settled int64, err error) {
	p.cuts = p.cuts[:0]
	var (
		refs = x.refs
		end  = x.off + int64(len(x.data))
	)
	p.addBlocks(x.blocks)
	for {
		p.addData(x)
		p.addRefs(&refs)
		if end < p.grid+inflate.WindowSize {
			break
		}
		p.choose()
		p.advance(p.grid + p.size)
	}
	settled = x.bit / 8
	if open := p.open(); open >= 0 && settled-open/8 >= maxHeld {
		p.advance(p.grid + p.size) // the span will be longer
	} else if open >= 0 {
		settled = min(settled, open/8)
	}
	return p.cuts, settled, p.out.err
}

// open returns the compressed position of the first candidate, or -1.
func (p *planner) open() int64 {
	first := int64(-1)
	if len(p.refs) > 0 {
		first = p.first
	}
	for i := range p.blocks {
		if b := &p.blocks[i]; b.out > p.grid-p.zone {
			if first < 0 || b.bit < first {
				first = b.bit
			}
			break
		}
	}
	return first
}

// addData copies what x has of the data.
func (p *planner) addData(x *piece) {
	for _, part := range [...]struct {
		off int64
		p   []byte
	}{{x.off - int64(len(x.hist)), x.hist}, {x.off, x.data}} {
		from := p.base + int64(len(p.data)) - part.off
		to := min(p.grid-part.off, int64(len(part.p)))
		if from >= 0 && from < to {
			p.data = append(p.data, part.p[from:to]...)
		}
	}
}

// addBlocks takes the blocks of a piece.
func (p *planner) addBlocks(blocks []blockStart) {
	for i := range blocks {
		b := &blocks[i]
		if len(p.spans) == 0 {
			p.begin(b.bit, b.out)
			p.out.begin(0, nil, 0, 0)
			p.out.end()
		}
		n := len(p.blocks)
		if n > 0 && p.blocks[n-1].out == b.out {
			n-- // nothing has come of that block
		}
		if n == cap(p.blocks) {
			p.blocks = append(p.blocks, planBlock{})
		}
		p.blocks = p.blocks[:n+1]
		d := &p.blocks[n]
		d.out, d.bit, d.headerBits = b.out, b.bit, b.headerBits
		d.header = append(d.header[:0], b.header...)
	}
	p.dropBlocks()
}

// addRefs takes the refs up to those that concern the grid point from the front of x, and
// keeps those that do.
func (p *planner) addRefs(x *refs) {
	from, to := p.grid-p.zone, p.grid+inflate.WindowSize
	for len(x.runs) > 0 {
		run := &x.runs[0]
		list := x.list[:run.n]
		i := 0
		for i < len(list) && run.out+int64(list[i].Pos) <= from {
			i++
		}
		if len(p.refs) == 0 && i < len(list) {
			p.first = run.bit + int64(list[i].Bit)
		}
		end := uint64(max(0, to-run.out))
		out, bit := uint32(run.out-p.base), uint32(run.bit-p.first) // they may wrap around, the sums do not
		grid := p.grid - run.out
		for ; i < len(list) && uint64(list[i].Pos) < end; i++ {
			r := &list[i]
			if int64(r.Pos)-int64(r.Dist) >= grid {
				continue // to bytes behind all candidates
			}
			p.refs = append(p.refs, planRef{out + r.Pos, bit + uint32(r.Bit), r.Dist, r.Len})
		}
		x.list = x.list[i:]
		if i < len(list) {
			run.n -= i
			return
		}
		x.runs = x.runs[1:]
	}
}

// finish says that all pieces have been added, of out uncompressed bytes.
func (p *planner) finish(out int64) ([]cut, error) {
	p.cuts = p.cuts[:0]
	for ; p.grid < out; p.advance(p.grid + p.size) {
		p.choose()
	}
	return p.cuts, p.out.finish()
}

// begin begins a span.
func (p *planner) begin(bit, out int64) {
	c := cutAt(bit)
	p.cuts = append(p.cuts, c)
	p.spans = append(p.spans, Span{In: Range{Off: c.start}, Out: Range{Off: out}, Bits: uint8(-bit & 7)})
}

// choose begins a span at the cheapest candidate, if there is one.
func (p *planner) choose() {
	best := p.cheapest()
	if best.price == math.MaxInt {
		return
	}
	p.begin(best.bit, p.base+int64(best.out))
	b := &p.blocks[best.block]
	headerBits := 0
	if best.inner {
		headerBits = b.headerBits
	}
	p.window(best.out)
	p.out.begin(len(p.ranges), b.header, int(b.bit&7), headerBits)
	at := best.out - inflate.WindowSize
	for _, r := range p.ranges {
		p.out.add(r.off-at, p.data[r.off:r.end])
		at = r.end
	}
	p.out.end()
}

// cheapest finds the candidate of the least price, of equals the last one.
//
// It goes backwards through the matches. The bytes that a span from here on refers
// to are those of cover that lie before: total counts all, behind those in the words
// that have been passed, to which no match further ahead can refer any more. One
// match in every 64 bytes is candidate enough.
func (p *planner) cheapest() choice {
	var (
		best   = choice{price: math.MaxInt}
		cover  = p.cover
		total  int
		behind int
		word   = len(cover)
		grid   = int(p.grid - p.base)
		zone   = int(p.grid - p.zone - p.base)
	)
	clear(cover)
	used := func(out int) int { // bytes before out that are referred to
		for word > out>>6+1 {
			word--
			behind += bits.OnesCount64(cover[word])
		}
		return total - behind - bits.OnesCount64(cover[out>>6]>>(out&63))
	}
	refs := p.refs
	for block := len(p.blocks) - 1; block >= -1; block-- { // -1: before all blocks
		start, price := math.MinInt, math.MaxInt
		if block >= 0 {
			start, price = int(p.blocks[block].out-p.base), p.headerPrice(block)
		}
		for len(refs) > 0 && int(refs[len(refs)-1].out) >= start {
			var n int
			refs, n = coverDown(cover, refs, max(int(refs[len(refs)-1].out)&^63, start))
			total += n
			r := &p.refs[len(refs)] // the first of these 64 bytes
			if out := int(r.out); out <= grid && price < best.price {
				if c := priceWindow*used(out) + price; c < best.price {
					best = choice{price: c, out: out, block: block, bit: p.first + int64(r.bit), inner: true}
				}
			}
		}
		if start > zone && start <= grid {
			if c := priceWindow * used(start); c < best.price {
				best = choice{price: c, out: start, block: block, bit: p.blocks[block].bit}
			}
		}
	}
	return best
}

// coverDown covers what the last refs copy, those from out on, returns the others and
// how many bytes have not been covered before.
func coverDown(cover []uint64, refs []planRef, out int) ([]planRef, int) {
	total := 0
	i := len(refs) - 1
	for ; i >= 0 && int(refs[i].out) >= out; i-- {
		r := &refs[i]
		src, n := int(r.out)-int(r.dist), int(min(r.dist, r.len))
		k := src & 63
		if k+n > 64 {
			total += mark(cover, src, src+n)
			continue
		}
		m, w := (^uint64(0)>>(64-n))<<k, &cover[src>>6]
		total += bits.OnesCount64(m &^ *w)
		*w |= m
	}
	return refs[:i+1], total
}

// headerPrice is the price of a header, or one that is too high for anything where
// there is none.
func (p *planner) headerPrice(block int) int {
	if block < 0 || p.blocks[block].headerBits == 0 {
		return math.MaxInt
	}
	return priceHeader * (p.blocks[block].headerBits + 7) / 8
}

// mark sets the bits [from, to) and returns how many of them were not set.
func mark(cover []uint64, from, to int) int {
	n := 0
	for from < to {
		k := min(64-from&63, to-from)
		m := (^uint64(0) >> (64 - k)) << (from & 63)
		w := &cover[from>>6]
		n += bits.OnesCount64(m &^ *w)
		*w |= m
		from += k
	}
	return n
}

// window sets ranges to those that the span from out on refers to.
func (p *planner) window(out int) {
	clear(p.cover)
	for i := len(p.refs) - 1; i >= 0 && int(p.refs[i].out) >= out; i-- {
		r := &p.refs[i]
		src := int(r.out) - int(r.dist)
		mark(p.cover, src, min(src+int(min(r.dist, r.len)), out))
	}
	p.ranges = p.ranges[:0]
	for at := p.seek(max(0, out-inflate.WindowSize), 0); at < out; {
		end := min(out, p.seek(at, ^uint64(0)))
		p.ranges = append(p.ranges, planRange{at, end})
		at = p.seek(end, 0)
	}
}

// seek returns the place of the next bit of cover, at or behind at, that is set; of
// the next one that is not if flip is all ones. Behind cover is anything.
func (p *planner) seek(at int, flip uint64) int {
	i := at >> 6
	if i >= len(p.cover) {
		return math.MaxInt
	}
	w := (p.cover[i] ^ flip) >> (at & 63) << (at & 63)
	for w == 0 {
		if i++; i == len(p.cover) {
			return math.MaxInt
		}
		w = p.cover[i] ^ flip
	}
	return i<<6 + bits.TrailingZeros64(w)
}

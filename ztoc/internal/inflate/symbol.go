// SPDX-License-Identifier: Apache-2.0

package inflate

import "io"

// The loops work on a cursor. Between calls it holds fewer than 8 bits, and the
// bits above nbits are zero.
type cursor struct {
	src    []byte // 0
	dst    []byte // 24
	refs   []Ref  // 48: room for traced matches
	in     int    // 72: index in src of the next byte
	pos    int    // 80: index in dst of the next byte
	inMax  int    // 88: the fast loop runs while in <= inMax
	posMax int    // 96: and pos <= posMax
	soft   int    // 104: matches whose source is before are traced
	nrefs  int    // 112
	bits   uint64 // 120
	nbits  uint64 // 128
}

// The fast loop may read inSlack bytes behind src[in], and write outSlack bytes
// behind dst[pos], before it looks at the limits again.
const (
	inSlack  = 24
	outSlack = 8 + maxMatch + 40
)

// maxLiterals is the most symbols that the fast loop decodes before it looks at the limits again.
const maxLiterals = 3

// Why the fast loop returned. In any case the cursor stands between two symbols.
const (
	exitSlack   = iota // no room in the input or output is left for going fast
	exitEnd            // an end of block has been consumed
	exitCareful        // the next symbol needs a closer look
)

// symbol decodes one symbol with every check there is. It reports true for the end of the block.
func (d *Decoder) symbol() (ended bool, err error) {
	c := &d.c
	bits, nbits, in := c.bits, uint(c.nbits), c.in
	for nbits <= 56 && in < len(c.src) {
		bits |= uint64(c.src[in]) << nbits
		nbits += 8
		in++
	}
	have := nbits
	e := d.lit[bits&(1<<litTableBits-1)]
	if e&entrySub != 0 {
		if have < litTableBits {
			return false, io.ErrUnexpectedEOF
		}
		bits >>= litTableBits
		have -= litTableBits
		e = d.lit[subIndex(e, bits)]
	}
	n := uint(e >> entryMiddle & entryDrop)
	if have < n {
		return false, io.ErrUnexpectedEOF
	}
	switch {
	case int32(e) < 0:
		if c.pos >= len(c.dst) {
			return false, ErrRoom
		}
		c.dst[c.pos] = byte(e >> entryValue)
		c.pos++
		c.consume(bits>>n, have-n, in)
		return false, nil
	case e&entryExcept != 0:
		if e&entryEnd == 0 {
			return false, ErrCode
		}
		c.consume(bits>>n, have-n, in)
		return true, nil
	}
	length := length(e, bits)
	bits >>= n
	have -= n

	e = d.dst[bits&(1<<dstTableBits-1)]
	if e&entrySub != 0 {
		if have < dstTableBits {
			return false, io.ErrUnexpectedEOF
		}
		bits >>= dstTableBits
		have -= dstTableBits
		e = d.dst[subIndex(e, bits)]
	}
	n = uint(e & entryDrop)
	if have < n {
		return false, io.ErrUnexpectedEOF
	}
	if e&entryExcept != 0 {
		return false, ErrCode
	}
	dist := distance(e, bits)
	if dist > c.pos {
		return false, ErrDistance
	}
	if length > len(c.dst)-c.pos {
		return false, ErrRoom
	}
	if c.pos-dist < c.soft {
		c.trace(8*c.in-int(c.nbits), dist, length)
	}
	for i := range length {
		c.dst[c.pos+i] = c.dst[c.pos+i-dist]
	}
	c.pos += length
	c.consume(bits>>n, have-n, in)
	return false, nil
}

// length is the length that entry e of the first table stands for, whose code bits begins with.
func length(e uint32, bits uint64) int {
	return int(e>>entryValue&entryBase) + int(bits&(1<<(e>>entryMiddle&entryDrop)-1)>>(e>>entryCode))
}

// distance is the distance of entry e of the second table, whose code bits begins with.
func distance(e uint32, bits uint64) int {
	return int(e>>entryValue) + int(bits&(1<<(e&entryDrop)-1)>>(e>>entryMiddle&0xf))
}

// subIndex is where entry e, whose code goes on with bits, leads to.
func subIndex(e uint32, bits uint64) uint {
	return uint(e>>entryValue) + uint(bits)&(1<<(e>>entryMiddle&0xf)-1)
}

// trace notes a match. There is room.
func (c *cursor) trace(bit, dist, length int) {
	c.refs[c.nrefs] = Ref{Bit: uint64(bit), Pos: uint32(c.pos), Dist: uint16(dist), Len: uint16(length)}
	c.nrefs++
}

// consume makes bits what is left, and gives whole bytes of it back to the input.
func (c *cursor) consume(bits uint64, nbits uint, in int) {
	c.in = in - int(nbits>>3)
	c.nbits = uint64(nbits & 7)
	c.bits = bits & (1<<c.nbits - 1)
}

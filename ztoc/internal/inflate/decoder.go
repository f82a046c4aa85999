// SPDX-License-Identifier: Apache-2.0

package inflate

import (
	"errors"
	"fmt"
	"io"
)

// Stop is why Decode returned.
type Stop uint8

// The reasons to stop.
const (
	NeedInput  Stop = iota + 1 // fewer than MinInput bytes are left: call again with them in front of more
	NeedOutput                 // as much has been inflated as was wanted
	BlockEnd                   // a block has ended that is not the stream's last
	StreamEnd                  // the last block has ended; the input goes on at the next whole byte
	RefsFull                   // the trace is full: take the Refs and go on
)

// MinInput is the number of bytes that Decode needs of input that goes on: the
// header of any block, and a few symbols.
const MinInput = 512

// The faults of a stream, for errors.Is. Input that ends too early is io.ErrUnexpectedEOF.
var (
	ErrHeader   = errors.New("malformed block header")
	ErrStored   = errors.New("malformed length of a stored block")
	ErrCode     = errors.New("no such code")
	ErrDistance = errors.New("distance too far back")
	ErrRoom     = errors.New("more output than room")
)

// Ref is a match as it was traced.
type Ref struct {
	Bit  uint64 // of its first bit, relative to the input of the call
	Pos  uint32 // of its first byte in dst
	Dist uint16 // 1 to WindowSize
	Len  uint16 // 3 to 258
}

// The states between calls.
const (
	modeHeader  = iota // a block's header comes next
	modeStored         // bytes of a stored block
	modeSymbols        // symbols of a block
	modeDone           // nothing: the stream has ended, or never began
)

// What the tables hold.
const (
	noTables = iota
	fixedTables
	dynamicTables
)

// Decoder inflates one stream at a time. Its zero value must be Reset before use.
// It is not for concurrent use.
type Decoder struct {
	c cursor // what the loops work on; assembly knows its layout

	mode   uint8
	tables uint8
	final  bool // the current block is the last
	skip   uint8
	stored int // bytes left of a stored block

	headerBits, headerLen int
	header                [maxHeader]byte

	lit [litTableSize]uint32
	dst [dstTableSize]uint32
}

// Reset makes d begin with the header of a block at bit skip (0-7) of the next
// input byte.
func (d *Decoder) Reset(skip uint8) {
	d.mode, d.final, d.skip = modeHeader, false, skip&7
	d.c.bits, d.c.nbits = 0, 0
	d.headerBits, d.headerLen = 0, 0
	d.Trace(nil, 0)
}

// ResumeBlock makes d begin inside a block, as Header gave it, whose symbols go on
// at bit skip (0-7) of the next input byte. The header begins at bit start (0-7) of
// p; what follows it in p is ignored. A stored block is an error: it has no symbols.
func (d *Decoder) ResumeBlock(p []byte, start, skip uint8) error {
	d.Reset(skip)
	r := bitReader{src: p}
	_, err := r.read(uint(start & 7))
	if err == nil {
		err = d.readHeader(&r)
	}
	if err == nil && d.mode != modeSymbols {
		err = fmt.Errorf("%w: stored block", ErrHeader)
	}
	if err != nil {
		d.mode = modeDone
	}
	return err
}

// Header is the header of the current or last block: p, in which its first bit is
// as in the byte of the input that holds it, and its length in bits. It is valid
// until the next call.
func (d *Decoder) Header() (p []byte, bits int) { return d.header[:d.headerLen], d.headerBits }

// Bits is the number of high-order bits (0-7) of the input's last consumed byte that
// are still to be read: the stream is at bit 8*in - Bits().
func (d *Decoder) Bits() int { return int(d.c.nbits) }

// Trace has the matches whose source begins before dst[soft] appended to refs, from
// its start to its capacity. None are if the capacity is 0.
func (d *Decoder) Trace(refs []Ref, soft int) {
	if cap(refs) == 0 {
		soft = 0
	}
	d.c.refs, d.c.nrefs, d.c.soft = refs[:cap(refs)], 0, max(soft, 0) // what is before dst[0] is always looked at
}

// Refs are the matches traced since the last call of Trace.
func (d *Decoder) Refs() []Ref { return d.c.refs[:d.c.nrefs] }

// Decode inflates src[in:] to dst[pos:], with dst[:pos] as the history: a distance
// beyond it is ErrDistance. It stops between two symbols as soon as at least want
// bytes of dst are there, and at the end of each block. It writes nothing behind
// dst; where a symbol has no room in it, it fails with ErrRoom. What is in dst
// behind the position it returns is undefined.
//
// last says that the input ends with src. It returns the new positions, at a fault
// those of the symbol at fault.
func (d *Decoder) Decode(dst []byte, pos, want int, src []byte, in int, last bool) (newPos, newIn int, stop Stop, err error) {
	d.begin(dst, pos, src, in)
	for stop == 0 && err == nil {
		stop, err = d.step(want, last)
	}
	newPos, newIn = d.end()
	return newPos, newIn, stop, err
}

// begin takes up the input and output of a call.
func (d *Decoder) begin(dst []byte, pos int, src []byte, in int) {
	c := &d.c
	c.dst, c.pos, c.src, c.in = dst, pos, src, in
	if d.skip != 0 && in < len(src) {
		c.bits, c.nbits = uint64(src[in]>>d.skip), uint64(8-d.skip)
		c.in++
		d.skip = 0
	}
}

// end lets go of them, and returns how far the call has come.
func (d *Decoder) end() (pos, in int) {
	c := &d.c
	c.dst, c.src = nil, nil
	return c.pos, c.in
}

// step decodes a header, or goes on in a block.
func (d *Decoder) step(want int, last bool) (Stop, error) {
	c := &d.c
	switch {
	case d.mode == modeDone:
		return 0, fmt.Errorf("%w: the stream has ended", ErrHeader)
	case c.pos >= want:
		return NeedOutput, nil
	case !last && len(c.src)-c.in < MinInput:
		return NeedInput, nil
	case c.nrefs == len(c.refs) && c.nrefs > 0:
		return RefsFull, nil
	case d.mode == modeHeader:
		return 0, d.beginBlock()
	case d.mode == modeStored:
		return d.copyStored(want)
	}
	return d.symbols(want, last)
}

// beginBlock reads the header of the next block.
func (d *Decoder) beginBlock() error {
	c := &d.c
	r := bitReader{src: c.src, in: c.in, bits: c.bits, nbits: uint(c.nbits)}
	if err := d.readHeader(&r); err != nil {
		return err
	}
	c.in = r.in - int(r.nbits>>3)
	c.nbits = uint64(r.nbits & 7)
	c.bits = r.bits & (1<<c.nbits - 1)
	return nil
}

// endBlock leaves the current block.
func (d *Decoder) endBlock() Stop {
	if !d.final {
		d.mode = modeHeader
		return BlockEnd
	}
	d.mode = modeDone
	d.c.bits, d.c.nbits = 0, 0 // the rest of the byte means nothing
	return StreamEnd
}

// copyStored copies bytes of a stored block.
func (d *Decoder) copyStored(want int) (Stop, error) {
	c := &d.c
	n := min(d.stored, len(c.src)-c.in, len(c.dst)-c.pos, want-c.pos)
	copy(c.dst[c.pos:], c.src[c.in:][:n])
	c.pos += n
	c.in += n
	d.stored -= n
	switch {
	case d.stored == 0:
		return d.endBlock(), nil
	case n > 0:
		return 0, nil
	case c.in == len(c.src):
		return 0, io.ErrUnexpectedEOF
	}
	return 0, ErrRoom
}

// symbols decodes symbols of the current block, until something has to be looked at.
func (d *Decoder) symbols(want int, last bool) (Stop, error) {
	c := &d.c
	c.inMax = len(c.src) - inSlack
	c.posMax = min(want-maxLiterals, len(c.dst)-outSlack)
	for {
		if !last && c.in > c.inMax {
			return 0, nil // a symbol may be cut off
		}
		if c.in <= c.inMax && c.pos <= c.posMax {
			switch d.fast() {
			case exitEnd:
				return d.endBlock(), nil
			case exitSlack:
				if c.pos >= want {
					return 0, nil
				}
			}
		}
		// The fast loop has no room, or has left a symbol that it cannot do.
		if c.nrefs == len(c.refs) && c.nrefs > 0 {
			return 0, nil
		}
		ended, err := d.symbol()
		if err != nil {
			return 0, err
		}
		if ended {
			return d.endBlock(), nil
		}
		if c.pos >= want {
			return 0, nil
		}
	}
}

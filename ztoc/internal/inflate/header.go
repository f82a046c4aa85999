// SPDX-License-Identifier: Apache-2.0

package inflate

import (
	"fmt"
	"io"
)

// Block types, RFC 1951, 3.2.3.
const (
	typeStored = iota
	typeFixed
	typeDynamic
)

// maxHeader is the most bytes that the header of a block takes: 17 bits, 19 code
// lengths of 3 bits, and 316 code length symbols of 7 bits, and a part of a byte
// on either side. Symbols with extra bits stand for three lengths or more.
const maxHeader = (17+3*numPre+7*(maxLit+maxDist)+7)/8 + 1

// preOrder is the order in which a header gives the lengths of the code length code.
var preOrder = [numPre]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// bitReader reads the header of a block, a few bits at a time.
type bitReader struct {
	src   []byte
	in    int // next byte
	bits  uint64
	nbits uint
}

// need makes at least n bits available, n <= 32, and reports false if the input ends before.
func (r *bitReader) need(n uint) bool { return r.nbits >= n || r.fill(n) }

// fill is need where bytes must be taken: as many as there is room for, if there are.
func (r *bitReader) fill(n uint) bool {
	if len(r.src)-r.in >= 8 {
		r.bits |= load64(r.src, r.in) << (r.nbits & 63)
		r.in += int(63-r.nbits) >> 3
		r.nbits |= 56
		return true
	}
	for r.nbits < n {
		if r.in >= len(r.src) {
			return false
		}
		r.bits |= uint64(r.src[r.in]) << r.nbits
		r.in++
		r.nbits += 8
	}
	return true
}

// take removes n bits that are available.
func (r *bitReader) take(n uint) uint {
	v := uint(r.bits & (1<<n - 1))
	r.bits >>= n
	r.nbits -= n
	return v
}

// read reads n bits, n <= 32.
func (r *bitReader) read(n uint) (uint, error) {
	if !r.need(n) {
		return 0, io.ErrUnexpectedEOF
	}
	return r.take(n), nil
}

// pos is the position in bits.
func (r *bitReader) pos() int { return 8*r.in - int(r.nbits) }

// readHeader reads the header of a block and prepares for what follows it.
func (d *Decoder) readHeader(r *bitReader) error {
	start, held := r.pos(), r.bits
	v, err := r.read(3)
	if err != nil {
		return err
	}
	d.final = v&1 != 0
	switch v >> 1 {
	case typeStored:
		err = d.readStored(r)
	case typeFixed:
		d.fixedTables()
	case typeDynamic:
		err = d.readDynamic(r)
	default:
		err = fmt.Errorf("%w: block type 3", ErrHeader)
	}
	if err != nil {
		d.tables = noTables
		return err
	}
	d.headerBits = r.pos() - start
	d.headerLen = 0
	if start < 0 { // in the last byte of input that is gone
		d.header[0] = byte(held << (8 + start))
		d.headerLen = 1
	}
	d.headerLen += copy(d.header[d.headerLen:], r.src[max(start, 0)/8:(r.pos()+7)/8])
	return nil
}

// readStored reads what is left of a stored block's header.
func (d *Decoder) readStored(r *bitReader) error {
	r.take(r.nbits & 7)
	v, err := r.read(32)
	if err != nil {
		return err
	}
	if v&0xffff != ^v>>16&0xffff {
		return fmt.Errorf("%w: length %#04x, complement %#04x", ErrStored, v&0xffff, v>>16)
	}
	d.stored = int(v & 0xffff)
	d.mode = modeStored
	return nil
}

// fixedTables makes the tables of the fixed code.
func (d *Decoder) fixedTables() {
	d.mode = modeSymbols
	if d.tables == fixedTables {
		return
	}
	var lens [numLit + numDist]uint8
	for i := range lens {
		switch {
		case i < 144:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		case i < 280:
			lens[i] = 7
		case i < numLit:
			lens[i] = 8
		default:
			lens[i] = 5
		}
	}
	build(d.lit[:], litTableBits, lens[:numLit], litSymbols[:], litUnit)
	build(d.dst[:], dstTableBits, lens[numLit:], dstSymbols[:], dstUnit)
	d.tables = fixedTables
}

// readDynamic reads what is left of a dynamic block's header.
func (d *Decoder) readDynamic(r *bitReader) error {
	d.tables = noTables
	v, err := r.read(14)
	if err != nil {
		return err
	}
	nlit, ndist, npre := v&31+257, v>>5&31+1, v>>10+4
	if nlit > maxLit || ndist > maxDist {
		return fmt.Errorf("%w: %d literal and length codes, %d distance codes", ErrHeader, nlit, ndist)
	}
	var pre [numPre]uint8
	for _, k := range preOrder[:npre] {
		n, err := r.read(3)
		if err != nil {
			return err
		}
		pre[k] = uint8(n)
	}
	var table [1 << preTableBits]uint32
	if !build(table[:], preTableBits, pre[:], preSymbols[:], dstUnit) {
		return fmt.Errorf("%w: code length code", ErrHeader)
	}
	var lens [maxLit + maxDist]uint8
	if err := readLens(r, &table, lens[:nlit+ndist]); err != nil {
		return err
	}
	if lens[endOfBlock] == 0 {
		return fmt.Errorf("%w: no code for the end of the block", ErrHeader)
	}
	if !build(d.lit[:], litTableBits, lens[:nlit], litSymbols[:], litUnit) {
		return fmt.Errorf("%w: literal and length code", ErrHeader)
	}
	if !build(d.dst[:], dstTableBits, lens[nlit:nlit+ndist], dstSymbols[:], dstUnit) {
		return fmt.Errorf("%w: distance code", ErrHeader)
	}
	d.tables = dynamicTables
	d.mode = modeSymbols
	return nil
}

// readLens reads code lengths, coded by table, to lens.
func readLens(r *bitReader, table *[1 << preTableBits]uint32, lens []uint8) error {
	for i := 0; i < len(lens); {
		// 14 bits hold any symbol and its extra bits; the input may end behind fewer.
		r.need(maxPreLen + 7)
		e := table[r.bits&(1<<preTableBits-1)]
		sym, n := e>>entryValue, uint(e&entryDrop)
		if n > r.nbits {
			return io.ErrUnexpectedEOF
		}
		if e&entryExcept != 0 {
			return fmt.Errorf("%w: code length", ErrHeader)
		}
		if sym < 16 {
			r.bits >>= n & 63
			r.nbits -= n
			lens[i] = uint8(sym)
			i++
			continue
		}
		extra, k := uint(2), 3
		switch sym {
		case 17:
			extra = 3
		case 18:
			extra, k = 7, 11
		}
		if n+extra > r.nbits {
			return io.ErrUnexpectedEOF
		}
		r.take(n)
		k += int(r.take(extra))
		if k > len(lens)-i {
			return fmt.Errorf("%w: a code length too many", ErrHeader)
		}
		var v uint8
		if sym == 16 {
			if i == 0 {
				return fmt.Errorf("%w: no code length to repeat", ErrHeader)
			}
			v = lens[i-1]
		}
		for ; k > 0; k-- {
			lens[i] = v
			i++
		}
	}
	return nil
}

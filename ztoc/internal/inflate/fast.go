// SPDX-License-Identifier: Apache-2.0

package inflate

// portable decodes symbols while there is slack on both sides. Every iteration
// begins with the entry of the next symbol looked up, and all 64 bits full. Look-ups
// come before refills, which then run in their shadow, as does the copy.
//
// Between two refills at most 59 bits are looked at: two literals of the root table
// and the symbol behind them, 33; a length and a distance with their extra bits and
// the symbol behind them, 48 and 11.
func (d *Decoder) portable() int {
	c := &d.c
	var (
		src, dst = c.src, c.dst
		in, pos  = c.in, c.pos
		bits     = c.bits
		nbits    = uint(c.nbits)
		inMax    = c.inMax
		posMax   = c.posMax
		lit      = &d.lit
		dists    = &d.dst
		exit     = exitSlack
	)
	bits |= load64(src, in) << (nbits & 63)
	in += int(^nbits>>3) & 7
	nbits |= 56
	e := lit[bits&(1<<litTableBits-1)]
	for in <= inMax && pos <= posMax {
		// Two literals without a branch: what is none drops no bits, and is looked
		// up and overwritten again. How many literals come in a row is anybody's
		// guess, and a wrong one costs as much as four look-ups.
		bits >>= e & entryDrop
		nbits -= uint(e)
		store8(dst, pos, byte(e>>entryValue))
		pos += int(e >> 31)
		e = lit[bits&(1<<litTableBits-1)]
		bits >>= e & entryDrop
		nbits -= uint(e)
		store8(dst, pos, byte(e>>entryValue))
		pos += int(e >> 31)
		e = lit[bits&(1<<litTableBits-1)]
		bits |= load64(src, in) << (nbits & 63)
		in += int(^nbits>>3) & 7
		nbits |= 56
		if int32(e) < 0 {
			continue
		}
		at := 8*in - int(nbits&63)
		if e&entryExcept != 0 {
			if e&entrySub == 0 {
				if e&entryEnd != 0 {
					bits >>= e >> entryMiddle & entryDrop
					nbits -= uint(e >> entryMiddle)
					exit = exitEnd
				} else {
					exit = exitCareful
				}
				break
			}
			bits >>= litTableBits
			nbits -= litTableBits
			e = lit[subIndex(e, bits)]
			if e&(entryLiteral|entryExcept) != 0 {
				if int32(e) < 0 {
					bits >>= e & entryDrop
					nbits -= uint(e)
					store8(dst, pos, byte(e>>entryValue))
					pos++
					e = lit[bits&(1<<litTableBits-1)]
					bits |= load64(src, in) << (nbits & 63)
					in += int(^nbits>>3) & 7
					nbits |= 56
					continue
				}
				in, bits, nbits = c.rewind(at)
				exit = exitCareful
				break
			}
		}
		length := length(e, bits)
		bits >>= e >> entryMiddle & entryDrop
		nbits -= uint(e >> entryMiddle)
		e = dists[bits&(1<<dstTableBits-1)]
		if e&entryExcept != 0 {
			bits >>= dstTableBits
			nbits -= dstTableBits
			if e&entrySub != 0 {
				e = dists[subIndex(e, bits)]
			}
			if e&entryExcept != 0 {
				in, bits, nbits = c.rewind(at)
				exit = exitCareful
				break
			}
		}
		dist := distance(e, bits)
		from := pos - dist
		if from < c.soft {
			if from < 0 || c.nrefs == len(c.refs) {
				in, bits, nbits = c.rewind(at)
				exit = exitCareful
				break
			}
			c.refs[c.nrefs] = Ref{Bit: uint64(at), Pos: uint32(pos), Dist: uint16(dist), Len: uint16(length)}
			c.nrefs++
		}
		bits >>= e & entryDrop
		nbits -= uint(e)
		e = lit[bits&(1<<litTableBits-1)]
		bits |= load64(src, in) << (nbits & 63)
		in += int(^nbits>>3) & 7
		nbits |= 56

		end := pos + length
		switch {
		case dist >= 8:
			copy8(dst, pos, from)
			copy8(dst, pos+8, from+8)
			copy8(dst, pos+16, from+16)
			copy8(dst, pos+24, from+24)
			for pos += 32; pos < end; pos += 8 {
				copy8(dst, pos, pos-dist)
			}
		case dist == 1:
			v := uint64(load8(dst, from)) * 0x0101010101010101
			for ; pos < end; pos += 8 {
				store64(dst, pos, v)
			}
		default:
			for ; pos < end; pos += dist {
				copy8(dst, pos, pos-dist)
			}
		}
		pos = end
	}
	c.pos = pos
	c.consume(bits, nbits&63, in)
	return exit
}

// rewind returns the state at bit at of the input, which the loop has passed. It is
// negative in a byte that was gone when the loop began.
func (c *cursor) rewind(at int) (in int, bits uint64, nbits uint) {
	if at < 0 {
		return 0, c.bits >> (c.nbits - uint64(-at)), uint(-at)
	}
	return at/8 + 1, uint64(load8(c.src, at/8) >> (at & 7)), uint(8 - at&7)
}

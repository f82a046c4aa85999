// SPDX-License-Identifier: Apache-2.0

package inflate

// portable decodes symbols while there is slack on both sides. Every iteration
// begins with at least 56 bits at hand and the entry of the next symbol looked up:
// a look-up then runs beside the copy before it.
//
// A length and a distance with their extra bits take 48 bits at most, a literal of
// the root table 11.
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
	in += int(63-nbits) >> 3
	nbits |= 56
	e := lit[bits&(1<<litTableBits-1)]
	for in <= inMax && pos <= posMax {
		if int32(e) < 0 {
			bits >>= e & entryDrop
			nbits -= uint(e & entryDrop)
			store8(dst, pos, byte(e>>entryValue))
			pos++
			e = lit[bits&(1<<litTableBits-1)]
			if int32(e) < 0 {
				bits >>= e & entryDrop
				nbits -= uint(e & entryDrop)
				store8(dst, pos, byte(e>>entryValue))
				pos++
				e = lit[bits&(1<<litTableBits-1)]
				if int32(e) < 0 {
					bits >>= e & entryDrop
					nbits -= uint(e & entryDrop)
					store8(dst, pos, byte(e>>entryValue))
					pos++
					e = lit[bits&(1<<litTableBits-1)]
					bits |= load64(src, in) << (nbits & 63)
					in += int(63-nbits) >> 3
					nbits |= 56
					continue
				}
			}
			bits |= load64(src, in) << (nbits & 63)
			in += int(63-nbits) >> 3
			nbits |= 56
		}
		before, nbefore := bits, nbits
		if e&entryExcept != 0 {
			if e&entrySub == 0 {
				if e&entryEnd != 0 {
					bits >>= e & entryDrop
					nbits -= uint(e & entryDrop)
					exit = exitEnd
				} else {
					exit = exitCareful
				}
				break
			}
			bits >>= litTableBits
			nbits -= litTableBits
			e = lit[int(e>>entryValue)+int(bits&(1<<(e>>entryCodeBits&entryCodeMask)-1))]
			if e&(entryLiteral|entryExcept) != 0 {
				if int32(e) < 0 {
					bits >>= e & entryDrop
					nbits -= uint(e & entryDrop)
					store8(dst, pos, byte(e>>entryValue))
					pos++
					bits |= load64(src, in) << (nbits & 63)
					in += int(63-nbits) >> 3
					nbits |= 56
					e = lit[bits&(1<<litTableBits-1)]
					continue
				}
				bits, nbits = before, nbefore
				exit = exitCareful
				break
			}
		}
		length := int(e>>entryValue) + int(bits&(1<<(e&entryDrop)-1)>>(e>>entryCodeBits&entryCodeMask))
		bits >>= e & entryDrop
		nbits -= uint(e & entryDrop)
		e = dists[bits&(1<<dstTableBits-1)]
		if e&entryExcept != 0 {
			bits >>= dstTableBits
			nbits -= dstTableBits
			if e&entrySub != 0 {
				e = dists[int(e>>entryValue)+int(bits&(1<<(e>>entryCodeBits&entryCodeMask)-1))]
			}
			if e&entryExcept != 0 {
				bits, nbits = before, nbefore
				exit = exitCareful
				break
			}
		}
		dist := int(e>>entryValue) + int(bits&(1<<(e&entryDrop)-1)>>(e>>entryCodeBits&entryCodeMask))
		from := pos - dist
		if from < c.soft {
			if from < 0 || c.nrefs == len(c.refs) {
				bits, nbits = before, nbefore
				exit = exitCareful
				break
			}
			c.refs[c.nrefs] = Ref{Bit: uint64(8*in - int(nbefore)), Pos: uint32(pos), Dist: uint16(dist), Len: uint16(length)}
			c.nrefs++
		}
		bits >>= e & entryDrop
		nbits -= uint(e & entryDrop)
		bits |= load64(src, in) << (nbits & 63)
		in += int(63-nbits) >> 3
		nbits |= 56
		e = lit[bits&(1<<litTableBits-1)]

		end := pos + length
		switch {
		case dist >= 16:
			copy16(dst, pos, from)
			copy16(dst, pos+16, from+16)
			for pos += 32; pos < end; pos += 16 {
				copy16(dst, pos, pos-dist)
			}
		case dist >= 8:
			for ; pos < end; pos += 8 {
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
	c.consume(bits, nbits, in)
	return exit
}

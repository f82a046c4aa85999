// SPDX-License-Identifier: Apache-2.0

package inflate

import (
	"math/bits"
)

// Alphabets and codes of DEFLATE (RFC 1951, 3.2).
const (
	maxCodeLen   = 15
	numLit       = 288 // literals, end of block, lengths and two that never occur
	numDist      = 32  // distances and two that never occur
	maxLit       = 286
	maxDist      = 30
	numPre       = 19 // code length codes
	endOfBlock   = 256
	firstLength  = 257
	maxMatch     = 258
	maxPreLen    = 7
	litTableBits = 11
	dstTableBits = 8
	preTableBits = maxPreLen

	// The most entries that a complete code of the alphabet needs, subtables
	// included: as many as enough.c of zlib finds for 288 symbols with 11 bits
	// at the root, and for 32 with 8.
	litTableSize = 2342
	dstTableSize = 402
)

// A table entry packs what decoding of one symbol takes. In the table of literals
// and lengths:
//
//	bits 0-5    a literal: bits to drop; otherwise 0, so that dropping them does nothing
//	bits 8-13   bits to drop: the code, and the extra bits behind it
//	bit 14      exceptional: the code goes on in a subtable
//	bit 15      exceptional; neither bit 14 nor 24: there is no such code
//	bits 16-24  the literal or base length
//	bit 24      exceptional: the end of the block
//	bits 25-28  bits of the code alone
//	bit 31      a literal
//
// In the tables of distances and of code lengths:
//
//	bits 0-5    bits to drop
//	bits 8-11   bits of the code alone
//	bits 14-15  as above
//	bits 16-30  the base distance
//
// An entry that leads to a subtable has the subtable's start in bits 16-27 and the
// number of bits that index it in bits 8-11.
const (
	entryDrop    = 0x3f
	entryEnd     = 1 << 24
	entryMiddle  = 8
	entrySub     = 1 << 14
	entryExcept  = 1 << 15
	entryValue   = 16
	entryBase    = 0x1ff // of a length
	entryCode    = 25
	entryLiteral = 1 << 31

	// What a bit of code adds to an entry; a literal's bit 31 adds one more.
	litUnit = 1<<entryMiddle | 1<<entryCode
	dstUnit = 1<<entryMiddle | 1
)

// litSymbols and dstSymbols are the entries of the symbols, but for their codes;
// preSymbols those of the code length alphabet. They are never written to.
var (
	litSymbols = makeLitSymbols()
	dstSymbols = makeDstSymbols()
	preSymbols = makePreSymbols()
)

func makeLitSymbols() (s [numLit]uint32) {
	for i := range endOfBlock {
		s[i] = entryLiteral | uint32(i)<<entryValue
	}
	s[endOfBlock] = entryExcept | entryEnd
	base := uint32(3)
	for i := firstLength; i < maxLit-1; i++ {
		extra := uint32(max(0, (i-firstLength)/4-1))
		s[i] = base<<entryValue | extra<<entryMiddle
		base += 1 << extra
	}
	s[maxLit-1] = maxMatch << entryValue
	for i := maxLit; i < numLit; i++ {
		s[i] = entryExcept
	}
	return s
}

func makeDstSymbols() (s [numDist]uint32) {
	base := uint32(1)
	for i := range maxDist {
		extra := uint32(max(0, i/2-1))
		s[i] = base<<entryValue | extra
		base += 1 << extra
	}
	for i := maxDist; i < numDist; i++ {
		s[i] = entryExcept
	}
	return s
}

func makePreSymbols() (s [numPre]uint32) {
	for i := range s {
		s[i] = uint32(i) << entryValue
	}
	return s
}

// build makes the table of the canonical code with the given lengths, one for each
// symbol, of at most 15 bits. root is the number of bits that index the table
// directly. It reports whether the code is one: complete, or a single one-bit code,
// or, which no data can use, none at all.
func build(table []uint32, root uint, lens []uint8, symbols []uint32, unit uint32) bool {
	var count [maxCodeLen + 1]int
	for _, n := range lens {
		count[n]++
	}
	var (
		first [maxCodeLen + 2]int // index in sorted of the first symbol by code length
		left  = 1                 // codes not given away at this length
	)
	for n := 1; n <= maxCodeLen; n++ {
		if left = left<<1 - count[n]; left < 0 {
			return false
		}
		first[n+1] = first[n] + count[n]
	}
	used := first[maxCodeLen+1]
	if left > 0 {
		return incomplete(table[:1<<root], lens, symbols, unit, used)
	}
	var sorted [numLit]uint16
	for i, n := range lens {
		if n != 0 {
			sorted[first[n]] = uint16(i)
			first[n]++
		}
	}
	fill(table, root, sorted[:used], lens, symbols, unit, &count)
	return true
}

// coded is the entry of a symbol with a code of n bits.
func coded(symbol uint32, n uint, unit uint32) uint32 {
	return symbol + uint32(n)*(unit+symbol>>31)
}

// incomplete makes the table of a code that does not use all bit patterns.
func incomplete(table []uint32, lens []uint8, symbols []uint32, unit uint32, used int) bool {
	for i := range table {
		table[i] = entryExcept + unit
	}
	switch used {
	case 0:
		return true
	case 1:
	default:
		return false
	}
	for i, n := range lens {
		if n == 0 {
			continue
		}
		if n != 1 {
			return false
		}
		for k := 0; k < len(table); k += 2 {
			table[k] = coded(symbols[i], 1, unit)
		}
	}
	return true
}

// fill makes the table of a complete code. Codes come in order of length, so that
// the table of n bits is made first, and doubled for each further bit.
func fill(table []uint32, root uint, sorted []uint16, lens []uint8, symbols []uint32, unit uint32, count *[maxCodeLen + 1]int) {
	var (
		code uint // of the next symbol, its first bit lowest, as it is in the stream
		n    = uint(1)
		i    int
		size = 2 // of what is made of the table
	)
	for ; n <= root; n++ {
		for end := i + count[n]; i < end; i++ {
			table[code] = coded(symbols[sorted[i]], n, unit)
			if i == len(sorted)-1 {
				for size < 1<<root { // the last code was of fewer bits than the root
					copy(table[size:], table[:size])
					size <<= 1
				}
				return
			}
			code = next(code, n)
		}
		if n < root {
			copy(table[size:2*size], table[:size])
			size <<= 1
		}
	}
	var (
		end    = uint(1) << root // of the table
		mask   = end - 1
		prefix = ^uint(0)
		start  uint
		sub    uint // bits of the current subtable
	)
	for ; i < len(sorted); i++ {
		n := uint(lens[sorted[i]])
		if code&mask != prefix {
			prefix, start = code&mask, end
			sub = n - root
			for space := remaining(lens, sorted, i, n); space < 1<<sub; {
				sub++
				space = space<<1 + count[root+sub]
			}
			end = start + 1<<sub
			table[prefix] = entryExcept | entrySub | uint32(start)<<entryValue | uint32(sub)<<entryMiddle
		}
		e := coded(symbols[sorted[i]], n-root, unit)
		for k := start + code>>root; k < end; k += 1 << (n - root) {
			table[k] = e
		}
		code = next(code, n)
	}
}

// remaining is the number of symbols from i on with codes of n bits.
func remaining(lens []uint8, sorted []uint16, i int, n uint) (k int) {
	for ; i < len(sorted) && uint(lens[sorted[i]]) == n; i++ {
		k++
	}
	return k
}

// next returns the code behind one of n bits in canonical order. Codes are kept
// with their first bit lowest: the carry runs downwards.
func next(code, n uint) uint {
	free := ^code & (1<<n - 1)
	if free == 0 {
		return code
	}
	bit := uint(1) << (bits.Len(free) - 1)
	return code&(bit-1) | bit
}

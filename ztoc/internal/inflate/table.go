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
	// The symbols are sorted by code length, in two halves that do not wait for each other.
	// Those without a code come last.
	half := len(lens) / 2
	var low, high [maxCodeLen + 1]int // how many, then where the next one goes
	for i, n := range lens[:half] {
		low[n&maxCodeLen]++
		high[lens[half+i]&maxCodeLen]++
	}
	if 2*half < len(lens) {
		high[lens[2*half]&maxCodeLen]++
	}
	var (
		count [maxCodeLen + 1]int
		left  = 1 // codes not given away at this length
		used  int
	)
	for n := 1; n <= maxCodeLen; n++ {
		count[n] = low[n] + high[n]
		if left = left<<1 - count[n]; left < 0 {
			return false
		}
		low[n], high[n] = used, used+low[n]
		used += count[n]
	}
	if left > 0 {
		return incomplete(table[:1<<root], lens, symbols, unit, used)
	}
	low[0], high[0] = used, used+low[0]
	var sorted [numLit]uint16
	for i, n := range lens[:half] {
		k := &low[n&maxCodeLen]
		sorted[*k] = uint16(i)
		*k++
		k = &high[lens[half+i]&maxCodeLen]
		sorted[*k] = uint16(half + i)
		*k++
	}
	if 2*half < len(lens) {
		sorted[high[lens[2*half]&maxCodeLen]] = uint16(2 * half)
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
	code := uint(0) // of the next symbol
	i := 0
	for n := uint(1); n <= root; n++ {
		if n > 1 {
			size := 1 << (n - 1)
			copy(table[size:2*size], table[:size])
			code <<= 1
		}
		for _, k := range sorted[i : i+count[n]] {
			table[reverse(code, n)] = coded(symbols[k], n, unit)
			code++
		}
		i += count[n]
	}
	var (
		end    = 1 << root // of the table
		prefix = ^uint(0)
		start  int
		at     = root // bits of the code before
	)
	for ; i < len(sorted); i++ {
		n := uint(lens[sorted[i]])
		code <<= n - at
		at = n
		rev := reverse(code, n)
		if rev&(1<<root-1) != prefix {
			prefix, start = rev&(1<<root-1), end
			sub := n - root // bits of the subtable
			for space := remaining(lens, sorted, i, n); space < 1<<sub; {
				sub++
				space = space<<1 + count[root+sub]
			}
			end = start + 1<<sub
			table[prefix] = entryExcept | entrySub | uint32(start)<<entryValue | uint32(sub)<<entryMiddle
		}
		e := coded(symbols[sorted[i]], n-root, unit)
		for k := start + int(rev>>root); k < end; k += 1 << (n - root) {
			table[k] = e
		}
		code++
	}
}

// remaining is the number of symbols from i on with codes of n bits.
func remaining(lens []uint8, sorted []uint16, i int, n uint) (k int) {
	for ; i < len(sorted) && uint(lens[sorted[i]]) == n; i++ {
		k++
	}
	return k
}

// reverse returns code, of n bits, with its first bit lowest, as it is in the stream.
func reverse(code, n uint) uint { return uint(bits.Reverse16(uint16(code)) >> (16 - n)) }

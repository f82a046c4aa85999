// SPDX-License-Identifier: Apache-2.0

package inflate

import (
	"math/bits"
	"slices"
	"testing"
)

// tableSearch finds the complete code that needs the largest table.
type tableSearch struct {
	root uint
	memo map[tableState]tableBest
}

// A tableState is where codes of n bits begin, n > root. The rest of the code, and what
// it adds to the table, depends on nothing else.
type tableState struct {
	n       uint
	left    int // bit patterns of n bits that no code has
	symbols int // without a code
	room    int // patterns of n bits in the subtable begun last
}

// tableBest is what is added to the table at most, negative if there is no such code,
// and how many codes of n bits that takes.
type tableBest struct{ size, codes int }

// size returns the largest table of a complete code for at most symbols symbols, and
// the lengths of such a code, in order.
func (s *tableSearch) size(symbols int) (size int, lens []uint8) {
	whole := 1 << s.root
	for deep := range whole { // patterns of root bits that lead to subtables
		// The codes in front of them fill the others, with one symbol for each bit that is set at least.
		short := bits.OnesCount(uint(whole - deep))
		for long := 2 * deep; long > 0 && long <= symbols-short; long++ {
			start := tableState{n: s.root + 1, left: 2 * deep, symbols: long}
			if b := s.best(start); b.size >= 0 && whole+b.size > size {
				size = whole + b.size
				lens = append(s.short(whole-deep), s.lens(start)...)
			}
		}
	}
	return size, lens
}

// short are the lengths of the fewest codes that fill n patterns of root bits.
func (s *tableSearch) short(n int) (lens []uint8) {
	for ; n > 0; n -= 1 << (bits.Len(uint(n)) - 1) {
		lens = append(lens, uint8(s.root)+1-uint8(bits.Len(uint(n))))
	}
	return lens
}

// best tries all numbers of codes of st.n bits.
func (s *tableSearch) best(st tableState) tableBest {
	if b, ok := s.memo[st]; ok {
		return b
	}
	b := tableBest{size: -1}
	if st.symbols >= st.left && st.n <= maxCodeLen {
		for codes := range st.left + 1 {
			next, added := s.use(st, codes)
			switch {
			case next.left == 0 && next.symbols > 0:
				continue
			case next.left > 0:
				rest := s.best(next)
				if rest.size < 0 {
					continue
				}
				added += rest.size
			}
			if added > b.size {
				b = tableBest{added, codes}
			}
		}
	}
	s.memo[st] = b
	return b
}

// use gives away codes of st.n bits, and returns where the next length begins and what
// has been added to the table.
func (s *tableSearch) use(st tableState, codes int) (next tableState, added int) {
	half := 1 << (st.n - s.root)
	room := st.room
	for range codes {
		if room == 0 {
			room = half
			added += half
		}
		room--
	}
	if room > 0 && codes < st.left {
		added += half // the subtable takes a bit more
	}
	return tableState{st.n + 1, 2 * (st.left - codes), st.symbols - codes, 2 * room}, added
}

// lens are the lengths of the best code from st on.
func (s *tableSearch) lens(st tableState) (lens []uint8) {
	for st.left > 0 {
		codes := s.best(st).codes
		for range codes {
			lens = append(lens, uint8(st.n))
		}
		st, _ = s.use(st, codes)
	}
	return lens
}

// TestTableSizes searches the largest tables there can be: the decoder has room for
// these and no more.
func TestTableSizes(t *testing.T) {
	for _, x := range []struct {
		name    string
		root    uint
		symbols []uint32
		unit    uint32
		size    int
	}{
		{"literals and lengths", litTableBits, litSymbols[:], litUnit, litTableSize},
		{"distances", dstTableBits, dstSymbols[:], dstUnit, dstTableSize},
	} {
		s := tableSearch{root: x.root, memo: make(map[tableState]tableBest)}
		size, lens := s.size(len(x.symbols))
		if size != x.size {
			t.Errorf("%s: the largest table has %d entries, room is for %d", x.name, size, x.size)
			continue
		}
		const unused = 1 // an entry that build never makes
		table := slices.Repeat([]uint32{unused}, size+1)
		if !build(table, x.root, lens, x.symbols, x.unit) {
			t.Errorf("%s: no code %v", x.name, lens)
			continue
		}
		if n := slices.Index(table, unused); n != size {
			t.Errorf("%s: %d entries made, want %d", x.name, n, size)
		}
	}
}

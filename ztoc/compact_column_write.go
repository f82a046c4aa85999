// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// ints is a growing sequence of integers in as many bytes as they need: most
// columns of a table have one value only, or fit in two or four bytes.
type ints struct {
	n     int
	width int // bytes an element: 0, 1, 2, 4 or 8
	base  int64
	p     []byte
	want  int // elements that are likely to come
}

// add appends v.
func (s *ints) add(v int64) {
	if s.n == 0 {
		s.base = v
	}
	u := zigzag(v - s.base)
	if w := intWidth(u); w > s.width {
		s.widen(w)
	}
	if s.width > 0 {
		if len(s.p)+s.width > cap(s.p) {
			s.p = slices.Grow(s.p, s.width+len(s.p)/4) // memory counts more than copying
		}
		s.p = s.p[:len(s.p)+s.width]
		s.put(s.n, u)
	}
	s.n++
}

// intWidth returns the bytes that u needs, of those that ints can have.
func intWidth(u uint64) int {
	n := (bits.Len64(u) + 7) / 8
	switch {
	case n <= 2:
		return n
	case n <= 4:
		return 4
	}
	return 8
}

// widen gives all elements w bytes.
func (s *ints) widen(w int) {
	old := *s
	s.p, s.width = make([]byte, s.n*w, max(s.n+16, s.want)*w), w
	for i := range s.n {
		s.put(i, old.get(i))
	}
}

func (s *ints) get(i int) uint64 {
	switch p := s.p[i*s.width:]; s.width {
	case 0:
		return 0
	case 1:
		return uint64(p[0])
	case 2:
		return uint64(binary.LittleEndian.Uint16(p))
	case 4:
		return uint64(binary.LittleEndian.Uint32(p))
	default:
		return binary.LittleEndian.Uint64(p)
	}
}

func (s *ints) put(i int, u uint64) {
	switch p := s.p[i*s.width:]; s.width {
	case 1:
		p[0] = byte(u)
	case 2:
		binary.LittleEndian.PutUint16(p, uint16(u))
	case 4:
		binary.LittleEndian.PutUint32(p, uint32(u))
	case 8:
		binary.LittleEndian.PutUint64(p, u)
	}
}

// at returns element i.
func (s *ints) at(i int) int64 { return s.base + unzigzag(s.get(i)) }

// plain appends s as a plain column to the sections of w.
func (w *sectionWriter) plain(s *ints) {
	lo, hi := s.bounds()
	w.column(colPlain, width(uint64(hi)-uint64(lo)), lo)
	w.planes(s.n, width(uint64(hi)-uint64(lo)), func(i int) uint64 { return uint64(s.at(i)) - uint64(lo) })
}

// running appends s as a running column whose values tend to grow by base.
func (w *sectionWriter) running(s *ints, base int64) {
	diff := func(i int) uint64 {
		if i%blockLen == 0 {
			return 0
		}
		return zigzag(s.at(i) - s.at(i-1) - base)
	}
	var most uint64
	var starts ints
	for i := range s.n {
		most |= diff(i)
		if i%blockLen == 0 {
			starts.add(s.at(i))
		}
	}
	w.column(colRunning, width(most), base)
	w.planes(s.n, width(most), diff)
	w.plain(&starts)
}

// best appends s as a plain column or one with a dictionary, whichever is smaller.
func (w *sectionWriter) best(s *ints) {
	plain := w.fork()
	plain.plain(s)
	if s.width > 1 {
		if dict := s.distinct(); len(dict) <= s.n*3/4 {
			other := w.fork()
			other.dict(s, dict)
			if other.size() < plain.size() {
				plain = other
			}
		}
	}
	w.join(plain)
}

// dict appends s as indexes of its distinct values, which are in order.
func (w *sectionWriter) dict(s *ints, distinct []int64) {
	k := width(uint64(len(distinct) - 1))
	w.column(colDict, k, int64(len(distinct)))
	w.planes(s.n, k, func(i int) uint64 {
		n, _ := slices.BinarySearch(distinct, s.at(i))
		return uint64(n)
	})
	var d ints
	for _, v := range distinct {
		d.add(v)
	}
	w.running(&d, 0)
}

// distinct returns the values of s, each once, in order.
func (s *ints) distinct() []int64 {
	d := make([]int64, s.n)
	for i := range d {
		d[i] = s.at(i)
	}
	slices.Sort(d)
	return slices.Compact(d)
}

// bounds returns the least and the greatest value of s.
func (s *ints) bounds() (lo, hi int64) {
	if s.n == 0 {
		return 0, 0
	}
	lo, hi = s.at(0), s.at(0)
	for i := range s.n {
		v := s.at(i)
		lo, hi = min(lo, v), max(hi, v)
	}
	return lo, hi
}

// width returns the number of byte planes for values up to u.
func width(u uint64) int { return (bits.Len64(u) + 7) / 8 }

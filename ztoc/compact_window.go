// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"sort"
	"sync"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

// The parts of a group of sparse windows, each stored as a section is.
const (
	partCounts  = iota // for each span: ranges of its window, bits of its block's header
	partGaps           // for each range: unused bytes before it
	partLens           // for each range: its length, less 1
	partHeaders        // headers of blocks, each from the first bit of a byte
	partData           // bytes of the ranges
	numParts
)

const (
	maxGroupSpans = 64
	maxGroupSize  = 256 << 10 // bytes of all parts
	// A group is unpacked for each random access, so it must be small against what
	// has to be inflated then: half a span.
	groupRatio = 64
	minGroup   = 4 << 10
	maxGroup   = 64 << 10
)

// windowGroup is a group of windows in the compact zTOC.
type windowGroup struct {
	first int // span
	p     []byte
}

// windowSet has the windows of a compact zTOC.
type windowSet struct {
	groups []windowGroup
	spans  int
	pool   sync.Pool // of *groupScratch
}

// groupScratch is a group that has been unpacked.
type groupScratch struct {
	group int // -1 for none
	parts [numParts][]byte
	buf   []byte
}

// newWindowSet takes the groups of so many spans apart, but does not unpack them.
func newWindowSet(spans int, groups, windows []byte) (*windowSet, error) {
	s := &windowSet{spans: spans}
	r := strs{p: groups}
	next := 0
	for len(r.p) > 0 {
		n, size := r.uvarint(), r.uvarint()
		if r.bad || n < 1 || n > maxGroupSpans || n > uint64(spans-next) || size > uint64(len(windows)) {
			return nil, badf("window group", "%d: %d spans in %d bytes", len(s.groups), n, size)
		}
		s.groups = append(s.groups, windowGroup{next, windows[:size:size]})
		next += int(n)
		windows = windows[size:]
	}
	if next != spans && next != 0 || len(windows) != 0 {
		return nil, badf("window groups", "%d spans of %d, %d bytes too many", next, spans, len(windows))
	}
	return s, nil
}

// fill sets buf to the window of a span, and head to the header of its block.
func (s *windowSet) fill(id int, buf *[inflate.WindowSize]byte, head *blockHead) error {
	clear(buf[:])
	head.n = 0
	if len(s.groups) == 0 {
		return nil
	}
	g := sort.Search(len(s.groups), func(i int) bool { return s.groups[i].first > id }) - 1
	x, ok := s.pool.Get().(*groupScratch)
	if !ok {
		x = &groupScratch{group: -1}
	}
	defer s.pool.Put(x)
	if x.group != g {
		x.group = -1
		if err := x.unpack(s.groups[g].p); err != nil {
			return err
		}
		x.group = g
	}
	return x.window(id-s.groups[g].first, buf, head)
}

// unpack unpacks a group.
func (x *groupScratch) unpack(p []byte) error {
	var (
		r      = strs{p: p}
		size   [numParts]int
		stored [numParts]int
		total  int
	)
	for i := range numParts {
		n, k := r.uvarint(), r.uvarint()
		if r.bad || n > maxGroupSize || k > n {
			return badf("window group", "part %d of %d bytes, stored as %d", i, n, k)
		}
		size[i], stored[i] = int(n), int(k)
		total += int(n)
	}
	if total > maxGroupSize {
		return badf("window group", "%d bytes", total)
	}
	if cap(x.buf) < total {
		x.buf = make([]byte, total)
	}
	buf := x.buf[:total]
	d := borrowDecompressor()
	defer decompressors.Put(d)
	for i := range numParts {
		if stored[i] > len(r.p) {
			return badf("window group", "part %d of %d bytes, %d are left", i, stored[i], len(r.p))
		}
		x.parts[i], buf = buf[:size[i]:size[i]], buf[size[i]:]
		if err := unpack(d, x.parts[i], r.p[:stored[i]]); err != nil {
			return badf("window group", "part %d: %w", i, err)
		}
		r.p = r.p[stored[i]:]
	}
	return nil
}

// window sets buf, which is zero, and head to those of the group's span i.
func (x *groupScratch) window(i int, buf *[inflate.WindowSize]byte, head *blockHead) error {
	var (
		counts, gaps = strs{p: x.parts[partCounts]}, strs{p: x.parts[partGaps]}
		lens         = strs{p: x.parts[partLens]}
		headers      = x.parts[partHeaders]
		data         = x.parts[partData]
	)
	for j := 0; ; j++ {
		ranges, bits := counts.uvarint(), counts.uvarint()
		n := bits/8 + min(bits%8, 1)
		if counts.bad || ranges > inflate.WindowSize/2 || n > min(uint64(len(headers)), maxBlockHead) {
			return badf("window", "%d ranges, header of %d bits", ranges, bits)
		}
		if j == i {
			head.n = copy(head.p[:], headers[:n])
		}
		headers = headers[n:]
		at := uint64(0)
		for range ranges {
			gap, k := gaps.uvarint(), lens.uvarint()+1 // of 0 bytes, if it overflows
			if gaps.bad || lens.bad || gap > inflate.WindowSize || k > inflate.WindowSize || at+gap+k > inflate.WindowSize || k > uint64(len(data)) {
				return badf("window", "range of %d bytes, %d behind %d, %d are left", k, gap, at, len(data))
			}
			at += gap
			if j == i {
				copy(buf[at:], data[:k])
			}
			at += k
			data = data[k:]
		}
		if j == i {
			return nil
		}
	}
}

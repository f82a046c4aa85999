// SPDX-License-Identifier: Apache-2.0

package ztoc

import "encoding/binary"

// The kinds of column.
const (
	colPlain   = iota // the values, less the base
	colDict           // indexes of a dictionary, which is a running column
	colRunning        // the zigzag differences to the value before, less the base; starts has every blockLen-th value
)

const (
	blockLen    = 64 // elements of a block: what cannot be found in one step is, from the start of its block
	maxColWidth = 8  // byte planes
)

// column is a sequence of n integers, used in place: byte plane by byte plane, the
// low-order one first, so that any element is at hand and each plane compresses by
// itself. A width of 0 means that all values are the base.
type column struct {
	kind  uint8
	width int
	n     int
	base  int64
	data  []byte // width times n bytes
	more  *column
	dict  []int64 // the values of a dictionary, where expand has been called
}

// raw returns the bits of element i, 0 <= i < n.
func (c *column) raw(i int) uint64 {
	switch c.width {
	case 0:
		return 0
	case 1:
		return uint64(c.data[i])
	case 2:
		return uint64(c.data[i]) | uint64(c.data[c.n+i])<<8
	}
	var v uint64
	for w := range c.width {
		v |= uint64(c.data[w*c.n+i]) << (8 * w)
	}
	return v
}

// at returns element i. It reports false where there is none, or where a dictionary
// does not have it.
func (c *column) at(i int) (int64, bool) {
	if i < 0 || i >= c.n {
		return 0, false
	}
	switch c.kind {
	case colDict:
		k := c.raw(i)
		if k < uint64(len(c.dict)) {
			return c.dict[k], true
		}
		if k >= uint64(c.more.n) {
			return 0, false
		}
		return c.more.at(int(k))
	case colRunning:
		v, ok := c.more.at(i / blockLen)
		for j := i&^(blockLen-1) + 1; j <= i; j++ {
			v += c.step(j)
		}
		return v, ok
	}
	return c.base + int64(c.raw(i)), true
}

// maxExpanded bounds the memory of expand to 8 MiB.
const maxExpanded = 1 << 20

// expand makes a dictionary as quick at any element as a plain column is. It is for
// those who want most of its elements.
func (c *column) expand() {
	if c.kind != colDict || c.more.n > maxExpanded {
		return
	}
	c.dict = make([]int64, c.more.n)
	for i := range c.dict {
		if i%blockLen == 0 {
			c.dict[i], _ = c.more.at(i)
		} else {
			c.dict[i] = c.dict[i-1] + c.more.step(i)
		}
	}
}

// sum returns the sum of the elements [from, to) of a plain column.
func (c *column) sum(from, to int) int64 {
	s := uint64(c.base) * uint64(to-from)
	for w := range c.width {
		s += uint64(sumBytes(c.data[w*c.n+from:w*c.n+to])) << (8 * w)
	}
	return int64(s)
}

// sumBytes returns the sum of the bytes of p, of which there are less than two blocks.
func sumBytes(p []byte) int64 {
	const lanes, ones = 0x00ff00ff00ff00ff, 0x0001000100010001
	var s, n uint64 // s: four sums of 16 bits
	for ; len(p) >= 8; p = p[8:] {
		v := binary.LittleEndian.Uint64(p)
		s += v&lanes + v>>8&lanes
	}
	for _, b := range p {
		n += uint64(b)
	}
	return int64(s*ones>>48 + n)
}

// step returns the difference of element i of a running column to the one before.
func (c *column) step(i int) int64 { return c.base + unzigzag(c.raw(i)) }

// blocks returns the number of blocks of n elements.
func blocks(n int) int { return (n + blockLen - 1) / blockLen }

func zigzag(v int64) uint64   { return uint64(v)<<1 ^ uint64(v>>63) }
func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

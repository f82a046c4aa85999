// SPDX-License-Identifier: Apache-2.0

package ztoc

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

// step returns the difference of element i of a running column to the one before.
func (c *column) step(i int) int64 { return c.base + unzigzag(c.raw(i)) }

// blocks returns the number of blocks of n elements.
func blocks(n int) int { return (n + blockLen - 1) / blockLen }

func zigzag(v int64) uint64   { return uint64(v)<<1 ^ uint64(v>>63) }
func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

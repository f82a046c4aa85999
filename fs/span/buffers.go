// SPDX-License-Identifier: Apache-2.0

package span

import (
	"math/bits"
	"sync"
)

// Buffers are pooled by the power of two that holds them, within these bounds.
const (
	minClass = 12 // 4 KiB
	maxClass = 26 // 64 MiB
)

// buffers recycles byte slices. How many are out at a time is bounded by
// Store.memory; the idle ones are the garbage collector's to drop.
type buffers struct {
	classes [maxClass - minClass + 1]sync.Pool
}

// get returns a slice of n bytes with arbitrary content.
func (b *buffers) get(n int64) []byte {
	c := sizeClass(n)
	if c > maxClass {
		return make([]byte, n)
	}
	if p, ok := b.classes[c-minClass].Get().(*[]byte); ok {
		return (*p)[:n]
	}
	return make([]byte, n, 1<<c)
}

// put takes back a slice that get returned, which nobody may use any more.
func (b *buffers) put(p []byte) {
	c := sizeClass(int64(cap(p)))
	if c > maxClass || cap(p) != 1<<c {
		return
	}
	p = p[:0]
	b.classes[c-minClass].Put(&p)
}

// bufferSize is how much memory a slice of n bytes takes.
func bufferSize(n int64) int64 {
	c := sizeClass(n)
	if c > maxClass {
		return n
	}
	return 1 << c
}

// sizeClass returns the exponent of the smallest pooled power of two that holds n.
func sizeClass(n int64) int {
	return max(bits.Len64(uint64(max(n, 1)-1)), minClass)
}

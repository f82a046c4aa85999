// SPDX-License-Identifier: Apache-2.0

package span

import (
	"sync"
	"sync/atomic"

	"github.com/seekoci/seekoci/ztoc"
)

// maxTouched bounds what Touched remembers.
const maxTouched = 64 << 10

// bitmap is a set of spans.
type bitmap []atomic.Uint64

func newBitmap(spans int) bitmap { return make(bitmap, (spans+63)/64) }

func (b bitmap) has(i int) bool { return b[i/64].Load()&(1<<(i%64)) != 0 }

// set reports whether i was not in the set.
func (b bitmap) set(i int) bool { return b[i/64].Or(1<<(i%64))&(1<<(i%64)) == 0 }

// all reports whether all of the spans first to last are in the set.
func (b bitmap) all(first, last int) bool {
	for i := first; i <= last; i++ {
		if !b.has(i) {
			return false
		}
	}
	return true
}

// touched is the order in which readers first asked for spans.
type touched struct {
	bits bitmap

	mu    sync.Mutex // guards what follows
	order []int32
}

// note notes that a reader asks for span i, and reports whether it is the first.
func (t *touched) note(i int) bool {
	if t.bits.has(i) || !t.bits.set(i) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.order) < maxTouched {
		t.order = append(t.order, int32(i))
	}
	return true
}

// Touched returns the uncompressed ranges of the spans that readers have asked for
// since the layer was opened, in the order in which they first did: the ranges
// for Prefetch when the same will be read again. What Fill and Prefetch bring does
// not count, until it is read. Spans that follow one another are one range; the
// first 65,536 spans are remembered.
func (l *Layer) Touched() []ztoc.Range {
	l.touched.mu.Lock()
	defer l.touched.mu.Unlock()
	var rs []ztoc.Range
	for _, i := range l.touched.order {
		out := l.zi.Spans[i].Out
		if n := len(rs); n > 0 && rs[n-1].End() == out.Off {
			rs[n-1].Len += out.Len
			continue
		}
		rs = append(rs, out)
	}
	return rs
}

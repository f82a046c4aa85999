// SPDX-License-Identifier: Apache-2.0

package span

import (
	"sync"
	"sync/atomic"

	"github.com/seekoci/seekoci/ztoc"
)

// maxTouched bounds what Touched remembers.
const maxTouched = 64 << 10

// touched is the order in which readers first asked for spans.
type touched struct {
	bits []atomic.Uint64 // by span

	mu    sync.Mutex // guards what follows
	order []int32
}

func newTouched(spans int) touched { return touched{bits: make([]atomic.Uint64, (spans+63)/64)} }

// has reports whether a span has been noted.
func (t *touched) has(i int) bool { return t.bits[i/64].Load()&(1<<(i%64)) != 0 }

// note notes the spans first to last.
func (t *touched) note(first, last int) {
	for i := first; i <= last; i++ {
		if t.has(i) || t.bits[i/64].Or(1<<(i%64))&(1<<(i%64)) != 0 {
			continue
		}
		t.mu.Lock()
		if len(t.order) < maxTouched {
			t.order = append(t.order, int32(i))
		}
		t.mu.Unlock()
	}
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

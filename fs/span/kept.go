// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"slices"
	"sync"
	"sync/atomic"
)

// kept are spans that could not be written to disk: who reads on in them is not to fetch
// them for every piece. Those not read for longest go when there are too many.
type kept struct {
	limit int64 // of bytes; one span is kept in any case

	n atomic.Int64 // number of them

	mu    sync.Mutex // guards what follows
	spans []keptSpan // least recently read first
	bytes int64
}

// keptSpan is one of them. Its bytes are never changed.
type keptSpan struct {
	l *Layer
	i int
	p []byte
}

// find returns where span i of l is, -1 if it is not kept. The caller holds k.mu.
func (k *kept) find(l *Layer, i int) int {
	return slices.IndexFunc(k.spans, func(s keptSpan) bool { return s.l == l && s.i == i })
}

// add keeps a copy of p, the bytes of span i of l.
func (k *kept) add(l *Layer, i int, p []byte) {
	s := keptSpan{l, i, bytes.Clone(p)}
	k.mu.Lock()
	defer k.mu.Unlock()
	if at := k.find(l, i); at >= 0 {
		k.remove(at)
	}
	k.spans = append(k.spans, s)
	k.bytes += int64(len(p))
	for k.bytes > k.limit && len(k.spans) > 1 {
		k.remove(0)
	}
	k.n.Store(int64(len(k.spans)))
}

// remove forgets a span. The caller holds k.mu.
func (k *kept) remove(at int) {
	k.bytes -= int64(len(k.spans[at].p))
	k.spans = slices.Delete(k.spans, at, at+1)
	k.n.Store(int64(len(k.spans)))
}

// read fills p with the bytes at from of span i of l, if that is kept.
func (k *kept) read(l *Layer, i int, from int64, p []byte) bool {
	if k.n.Load() == 0 {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	at := k.find(l, i)
	if at < 0 {
		return false
	}
	s := k.spans[at]
	copy(p, s.p[from:])
	k.spans = append(slices.Delete(k.spans, at, at+1), s)
	return true
}

// drop forgets span i of l.
func (k *kept) drop(l *Layer, i int) {
	if k.n.Load() == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if at := k.find(l, i); at >= 0 {
		k.remove(at)
	}
}

// forget forgets the spans of l.
func (k *kept) forget(l *Layer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for at := len(k.spans) - 1; at >= 0; at-- {
		if k.spans[at].l == l {
			k.remove(at)
		}
	}
}

// all returns the spans there are, the most recently read first.
func (k *kept) all() []keptSpan {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := slices.Clone(k.spans)
	slices.Reverse(all)
	return all
}

// SPDX-License-Identifier: Apache-2.0

package span

// distruster is a Source that can be told that the n bytes at off, as they were read last,
// are not the layer's: it may have them from somebody else.
type distruster interface {
	Distrust(off, n int64)
}

// distrust tells the source that the bytes of a span are wrong. The caller does not hold l.mu.
func (l *Layer) distrust(span int) {
	if d, ok := l.src.(distruster); ok {
		in := l.zi.Spans[span].In
		d.Distrust(in.Off, in.Len)
	}
}

// SPDX-License-Identifier: Apache-2.0

package span

import "os"

// Extent is a part of a layer that lies in a file, for readers that have the kernel
// move the bytes. It is good until Release.
type Extent struct {
	Fd    int   // of the file, to read from at offsets only
	Off   int64 // in the file
	layer *Layer
}

// Extent returns where the n bytes at off of the uncompressed layer lie, which are of
// a file that ends at end as in ReadFile. It reports false where ReadFile is to be
// asked: unless all of their spans are on disk and were checked, or when the reader is
// to be read ahead for. It never waits. Where the file does not give the bytes,
// ReadFile does.
func (l *Layer) Extent(off, n, end int64) (Extent, bool) {
	if off < 0 || n <= 0 || n > l.zi.UncompressedSize-off {
		return Extent{}, false
	}
	if !l.enter() {
		return Extent{}, false
	}
	first, last := l.zi.SpanAt(off), l.zi.SpanAt(off+n-1)
	l.reading.RLock()
	f, ok := l.disk.data.(*os.File)
	if !ok || !l.present(first, last) || !l.passive(off, n, end, first, last) {
		l.reading.RUnlock()
		l.leave()
		return Extent{}, false
	}
	l.use(first, last)
	l.stats.bytesServed.Add(n)
	return Extent{Fd: int(f.Fd()), Off: off, layer: l}, true
}

// Release ends the use of the file. It is called once. Up to then nothing of the layer is
// evicted, and others may have to wait for that.
func (e Extent) Release() {
	e.layer.reading.RUnlock()
	e.layer.leave()
}

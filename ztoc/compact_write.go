// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"encoding/binary"
	"fmt"
	"io"
	"iter"

	"github.com/klauspost/compress/zstd"
)

// compactSource is what a pass over a layer has found out, for its compact zTOC.
type compactSource struct {
	layer, diffID [32]byte
	buildTool     string
	zinfo         *ZInfo                // without windows
	windows       *windowWriter         // finished; nil for an uncompressed layer
	entries       iter.Seq2[int, Entry] // in the order of the tar
	readErr       error                 // set by entries, where it ends early
	count         int                   // how many there are, about
}

// write writes the compact zTOC of the layer to w. Nothing is written if there cannot be one.
func (src *compactSource) write(w io.Writer) error {
	enc := borrowCompressor()
	defer compressors.Put(enc)
	return src.encode(enc, w)
}

// encode is write with an encoder; without one nothing is compressed but windows.
func (src *compactSource) encode(enc *zstd.Encoder, w io.Writer) error {
	z := src.zinfo
	table := newTableWriter(src.count)
	defer table.names.free()
	for i, e := range src.entries {
		if err := table.add(&e); err != nil {
			return fmt.Errorf("entry %d, %q: %w", i, clip(e.Name), err)
		}
	}
	if src.readErr != nil {
		return src.readErr
	}
	s := &sectionWriter{enc: enc}
	for _, v := range [...]int64{
		int64(z.Compression), z.CompressedSize, z.UncompressedSize, z.SpanSize,
		int64(len(z.Spans)), int64(table.n), int64(len(table.names.nodes)), int64(table.classAt.n),
	} {
		s.dir = binary.AppendUvarint(s.dir, uint64(v))
	}
	s.stored([]byte(src.buildTool))
	s.spans(z)
	if src.windows != nil {
		src.windows.write(s)
	} else {
		s.text(nil)
		s.stored(nil)
	}
	table.write(s)
	size := compactHeader + s.size()
	if size > MaxSize {
		return fmt.Errorf("%w: %d bytes", ErrLimit, size)
	}
	if s.raw > unpackLimit(size-compactHeader) {
		return fmt.Errorf("%w: %d bytes for a table of %d", ErrLimit, size, s.raw)
	}
	p := make([]byte, 0, compactHeader+len(s.dir))
	p = append(p, compactMagic...)
	p = binary.LittleEndian.AppendUint32(p, compactVersion)
	p = binary.LittleEndian.AppendUint32(p, uint32(len(s.dir)))
	p = append(append(p, src.layer[:]...), src.diffID[:]...)
	if _, err := w.Write(append(p, s.dir...)); err != nil {
		return err
	}
	return s.writeTo(w)
}

// spans appends the sections of the spans.
func (w *sectionWriter) spans(z *ZInfo) {
	var (
		starts, sums []byte
		bit, out     int64
	)
	for i := range z.Spans {
		s := &z.Spans[i]
		b := 8*s.In.Off + int64(-s.Bits&7)
		starts = binary.AppendUvarint(starts, uint64(b-bit))
		starts = binary.AppendUvarint(starts, uint64(s.Out.Off-out))
		bit, out = b, s.Out.Off
		sums = append(sums, s.Sum[:]...)
	}
	w.text(starts)
	w.stored(sums)
}

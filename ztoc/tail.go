// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"fmt"
	"io"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

// TailSpan returns the id of the first span that may hold bytes behind
// UncompressedSize: the last one with an output. Those behind it hold nothing else.
func (z *ZInfo) TailSpan() int {
	id := len(z.Spans) - 1
	for id > 0 && z.Spans[id].Out.Len == 0 {
		id--
	}
	return id
}

// WriteTail writes to w the uncompressed bytes of the layer that lie behind
// UncompressedSize, which are nobody's but part of its diffID. There may be none, or
// many. src is the verified bytes of the layer from Spans[TailSpan()].In.Off to its
// end. An error of w ends it; a layer that is not sound there is a *FormatError.
func (z *ZInfo) WriteTail(w io.Writer, src []byte) error {
	id := z.TailSpan()
	s, err := z.span(id)
	if err != nil {
		return fmt.Errorf("decode tail: %w", err)
	}
	if want := z.CompressedSize - s.In.Off; int64(len(src)) != want {
		return fmt.Errorf("decode tail: %d bytes, want %d", len(src), want)
	}
	from := z.UncompressedSize - s.Out.Off
	if z.Compression == Uncompressed {
		if from > int64(len(src)) {
			return z.decodeError(id, int64(len(src)), io.ErrUnexpectedEOF)
		}
		_, err := w.Write(src[from:])
		return err
	}
	d, ok := decoders.Get().(*SpanDecoder)
	if !ok {
		d = new(SpanDecoder)
	}
	defer d.Close()
	if err := d.begin(z, id, src); err != nil {
		return z.decodeError(id, 0, err)
	}
	return d.writeTail(w, from)
}

// writeTail inflates to the end of src and writes what comes behind the first from
// bytes.
func (d *SpanDecoder) writeTail(w io.Writer, from int64) error {
	d.open = true
	for !d.between || len(d.src.p)-d.src.in != gzipTrailer {
		if d.pos >= inflate.WindowSize+rangePiece {
			d.slide()
		}
		seen := max(d.done(), from)
		if err := d.step(inflate.WindowSize + rangePiece); err != nil {
			return d.fault(err)
		}
		if done := d.done(); seen < done {
			if _, err := w.Write(d.buf[seen-d.before : done-d.before]); err != nil {
				return err
			}
		}
	}
	if d.done() < from {
		return d.fault(io.ErrUnexpectedEOF)
	}
	return nil
}

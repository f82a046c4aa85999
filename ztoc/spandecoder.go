// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

const (
	// The first bytes of a span are inflated behind the window, in memory of the
	// decoder's own, and copied: those behind them then have all of their history
	// in the caller's buffer.
	headPiece = 64 << 10
	// Ranges are inflated in that memory alone, piece by piece.
	rangePiece = 128 << 10
	// The inflater is fast as long as it has so much room.
	scratchSlack = 512
	scratchSize  = inflate.WindowSize + rangePiece + scratchSlack
)

// SpanDecoder is the decoding of one span, which can stop anywhere and go on later.
// It holds some 180 KiB, and is not for concurrent use.
type SpanDecoder struct {
	z    *ZInfo
	id   int
	span *Span

	src     byteReader // over the span's compressed bytes
	between bool       // a gzip member has ended, the next has not begun

	buf    []byte // what is inflated to: scratch, or the caller's bytes
	lent   bool   // buf is the caller's
	open   bool   // the span's output may go on behind its declared bytes
	pos    int    // of the next byte in buf
	before int64  // offset in the span of buf[0]; negative while the window is there
	member int    // in buf: no reference leads before it
	copied int64  // bytes of the span that Fill has put into the caller's

	inf     inflate.Decoder
	job     inflate.Job // of inf
	head    blockHead
	scratch [scratchSize]byte
}

// decoders keeps idle decoders, which any span of any layer can use.
var decoders sync.Pool

// byteReader reads a slice; the inflater moves in, too.
type byteReader struct {
	p  []byte
	in int
}

// ReadByte returns the next byte.
func (r *byteReader) ReadByte() (byte, error) {
	if r.in >= len(r.p) {
		return 0, io.EOF
	}
	r.in++
	return r.p[r.in-1], nil
}

// begin prepares for the first byte of a span.
func (d *SpanDecoder) begin(z *ZInfo, id int, src []byte) error {
	d.z, d.id, d.span = z, id, &z.Spans[id]
	d.src, d.between = byteReader{p: src}, false
	d.buf, d.lent, d.pos, d.before = d.scratch[:], false, inflate.WindowSize, -inflate.WindowSize
	d.member, d.copied = 0, 0
	// Tar padding, which the zTOC does not count, may follow in the same span.
	d.open = d.span.Out.End() >= z.UncompressedSize
	if z.Compression == Uncompressed {
		return nil
	}
	if d.span.Out.Off == 0 {
		d.member = inflate.WindowSize // there is no history
	}
	if err := z.window(id, (*[inflate.WindowSize]byte)(d.scratch[:]), &d.head); err != nil {
		return err
	}
	skip := (8 - d.span.Bits) & 7
	if d.head.n > 0 {
		return d.inf.ResumeBlock(d.head.p[:d.head.n], 0, skip)
	}
	d.inf.Reset(skip)
	return nil
}

// Close gives the decoder back. It must not be used any more.
func (d *SpanDecoder) Close() {
	d.z, d.span, d.src.p, d.buf, d.job = nil, nil, nil, nil, inflate.Job{}
	decoders.Put(d)
}

// Fill inflates the span to dst, whose length must be that of the span's Out, until
// at least its first n bytes are there, and returns how many are. dst must be the
// same each time, with what was written to it.
//
// A span that does not inflate to exactly its declared bytes is a *FormatError,
// with dst undefined; all of it has been seen once n is its length.
func (d *SpanDecoder) Fill(dst []byte, n int64) (int64, error) {
	size := d.span.Out.Len
	if int64(len(dst)) != size || n < 0 || n > size {
		return 0, fmt.Errorf("decode span %d: %d of %d bytes, want %d: %w", d.id, n, len(dst), size, errRange)
	}
	if d.z.Compression == Uncompressed {
		return size, d.copyRange(dst, 0)
	}
	for d.done() < n {
		if err := d.step(d.next(dst, n)); err != nil {
			return 0, d.fault(err)
		}
	}
	if err := d.arrive(dst); err != nil {
		return 0, d.fault(err)
	}
	return min(d.done(), size), nil
}

// next returns how much of buf is wanted next on the way to the span's first n
// bytes, n > done. It moves from scratch to dst once the history is there.
func (d *SpanDecoder) next(dst []byte, n int64) (want int64) {
	if d.before < 0 && d.pos >= inflate.WindowSize+headPiece {
		d.borrow(dst)
	}
	if d.before < 0 {
		return min(n-d.before, inflate.WindowSize+headPiece)
	}
	return n - d.before
}

// arrive brings to dst what has been inflated and, if that is all of the span, sees
// to its end.
func (d *SpanDecoder) arrive(dst []byte) error {
	d.copyTo(dst)
	if d.done() < d.span.Out.Len || d.open {
		return nil
	}
	return d.end()
}

// borrow goes on in dst, the caller's bytes, which are all of the history by now.
func (d *SpanDecoder) borrow(dst []byte) {
	d.copyTo(dst)
	d.pos += int(d.before)
	d.member = max(0, d.member+int(d.before))
	d.buf, d.lent, d.before = dst, true, 0
}

// giveBack goes on in scratch, which has room behind the end of the caller's bytes.
func (d *SpanDecoder) giveBack() {
	n := d.pos - inflate.WindowSize
	copy(d.scratch[:], d.buf[n:d.pos])
	d.buf, d.lent = d.scratch[:], false
	d.pos = inflate.WindowSize
	d.copied = d.before + int64(n) + inflate.WindowSize
	d.before += int64(n)
	d.member = max(0, d.member-n)
}

// copyTo copies to dst what has been inflated in scratch.
func (d *SpanDecoder) copyTo(dst []byte) {
	if !d.lent {
		d.copied += int64(copy(dst[d.copied:], d.buf[d.copied-d.before:d.pos]))
	}
}

// readRange inflates as much of the span as it takes to fill dst with its bytes from off on.
func (d *SpanDecoder) readRange(dst []byte, off int64) error {
	if off < 0 || int64(len(dst)) > d.span.Out.Len-off {
		return fmt.Errorf("decode [%d,+%d) of span %d: %w", off, len(dst), d.id, errRange)
	}
	if d.z.Compression == Uncompressed {
		return d.copyRange(dst, off)
	}
	for end := off + int64(len(dst)); d.done() < end; {
		if d.pos >= inflate.WindowSize+rangePiece {
			d.slide()
		}
		from := max(d.done(), off)
		if err := d.step(min(end-d.before, inflate.WindowSize+rangePiece)); err != nil {
			return d.fault(err)
		}
		if to := min(d.done(), end); from < to {
			copy(dst[from-off:], d.buf[from-d.before:to-d.before])
		}
	}
	return nil
}

// slide drops all but the history from scratch.
func (d *SpanDecoder) slide() {
	n := d.pos - inflate.WindowSize
	copy(d.buf, d.buf[n:d.pos])
	d.pos -= n
	d.before += int64(n)
	d.member = max(0, d.member-n)
}

// copyRange fills dst from an uncompressed span.
func (d *SpanDecoder) copyRange(dst []byte, off int64) error {
	if src := d.src.p; off+int64(len(dst)) > int64(len(src)) {
		return d.z.decodeError(d.id, int64(len(src)), io.ErrUnexpectedEOF)
	}
	copy(dst, d.src.p[off:])
	return nil
}

// done is the number of bytes of the span that have been inflated.
func (d *SpanDecoder) done() int64 { return d.before + int64(d.pos) }

// step inflates until buf[:want] is there, or until a block ends.
func (d *SpanDecoder) step(want int64) error {
	if err := d.call(want); err != nil {
		return err
	}
	j := &d.job
	j.Pos, j.In, j.Stop, j.Err = d.inf.Decode(j.Dst, j.Pos, j.Want, j.Src, j.In, j.Last)
	return d.took()
}

// call makes job the call of the inflater that brings buf[:want].
func (d *SpanDecoder) call(want int64) error {
	if d.between {
		if err := d.nextMember(); err != nil {
			return err
		}
	}
	room := d.buf[d.member:]
	if !d.open {
		room = d.buf[d.member:min(int64(len(d.buf)), d.span.Out.Len-d.before)]
	}
	d.job = inflate.Job{
		Decoder: &d.inf,
		Dst:     room, Pos: d.pos - d.member, Want: int(want) - d.member,
		Src: d.src.p, In: d.src.in, Last: true,
	}
	return nil
}

// took takes what job has returned.
func (d *SpanDecoder) took() error {
	d.pos, d.src.in = d.member+d.job.Pos, d.job.In
	d.between = d.job.Stop == inflate.StreamEnd
	if d.lent && d.open && errors.Is(d.job.Err, inflate.ErrRoom) {
		d.giveBack() // a match leads into the padding
		return nil
	}
	return d.job.Err
}

// nextMember passes over the end of a gzip member and the header of the next one.
func (d *SpanDecoder) nextMember() error {
	for range gzipTrailer {
		if _, err := d.src.ReadByte(); err != nil {
			return noEOF(err)
		}
	}
	if err := readGzipHeader(&d.src); err != nil {
		return err
	}
	d.between = false
	d.member = d.pos
	d.inf.Reset(0)
	return nil
}

// end goes on to where the next span begins, which must be in sight: no output may
// come before.
func (d *SpanDecoder) end() error {
	end := 8 * len(d.src.p)
	if d.id+1 < len(d.z.Spans) {
		end -= int(d.z.Spans[d.id+1].Bits)
	}
	for {
		switch at := 8*d.src.in - d.inf.Bits(); {
		case at == end && !d.between:
			return nil
		case at > end:
			return errEnd
		}
		if d.between { // a span may begin with a member: look again before its first block
			if err := d.nextMember(); err != nil {
				return err
			}
			continue
		}
		if err := d.step(math.MaxInt32 + d.done()); err != nil {
			return err
		}
	}
}

// fault returns the error of Fill and readRange.
func (d *SpanDecoder) fault(err error) error {
	if errors.Is(err, inflate.ErrRoom) {
		err = errOutput
	}
	return d.z.decodeError(d.id, d.done(), err)
}

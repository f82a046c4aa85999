// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// The faults at the end of a gzip member.
var (
	errCRC   = errors.New("checksum of the data mismatch")
	errISize = errors.New("length of the data mismatch")
)

// walker is the third stage: it checks the uncompressed bytes, reads the tar, and
// says where spans begin.
type walker struct {
	ctx context.Context //nolint:containedctx // of the one run
	p   *pass
	w   *work // whose data are with the tar reader

	c        Compression
	size     int64 // compressed size of the layer, once its end is there
	out      int64 // size of all uncompressed bytes so far
	tarSize  int64
	crc      uint32 // of the member so far
	memberAt int64  // uncompressed offset of the member

	spans []Span // of 0.9, without windows and digests
	last  int64  // uncompressed offset of the last checkpoint
	next  [2]int64
	batch batch
}

// run takes the layer to its end, or to the first fault.
func (t *walker) run(ctx context.Context) error {
	t.ctx = ctx
	out := &stream{next: t.nextPiece}
	err := walk(out, t.p.opts.entry)
	if fe := (*FormatError)(nil); t.p.opts.compression == 0 && t.c == Uncompressed && errors.As(err, &fe) && fe.Off == 0 {
		return &FormatError{Field: "layer", Off: 0, Err: fmt.Errorf("neither gzip nor tar: %w", fe.Err)}
	}
	if err != nil {
		return err
	}
	t.tarSize = out.off
	if err := out.drain(); err != nil {
		return err
	}
	if t.p.opts.planner != nil && t.c == Gzip {
		if t.batch.cuts[compact], err = t.p.opts.planner.finish(t.out); err != nil {
			return err
		}
	}
	if err := t.lens(); err != nil {
		return err
	}
	t.batch.settled = [2]int64{t.size, t.size}
	if !send(ctx, t.p.sums, t.batch) {
		return ctx.Err()
	}
	return nil
}

// nextPiece hands the piece before on and returns the data of the next one. It
// returns the error behind a piece when that has been used up.
func (t *walker) nextPiece() ([]byte, error) {
	if w := t.w; w != nil {
		err := w.err
		t.batch.work, t.w = w, nil
		if !send(t.ctx, t.p.sums, t.batch) {
			return nil, t.ctx.Err()
		}
		t.batch = batch{}
		if err != nil {
			return nil, err
		}
	}
	w, ok := receive(t.ctx, t.p.works)
	if !ok {
		return nil, t.ctx.Err()
	}
	t.w, t.c = w, w.compression
	if err := t.take(w); err != nil {
		return nil, err
	}
	return w.data, nil
}

// take looks at a piece in every way but that of the tar reader.
func (t *walker) take(w *work) error {
	t.out = w.off + int64(len(w.data))
	if w.err == io.EOF {
		t.size = w.size
	}
	if t.c != Gzip {
		return t.cutPlain(w)
	}
	if err := t.checkMembers(w); err != nil {
		return err
	}
	for i := range w.blocks {
		if err := t.candidate(w, &w.blocks[i]); err != nil {
			return err
		}
	}
	t.batch.settled[coarse] = w.bit / 8
	if t.p.opts.planner == nil {
		return nil
	}
	cuts, settled, err := t.p.opts.planner.add(&w.piece)
	t.batch.cuts[compact], t.batch.settled[compact] = slices.Clone(cuts), settled
	return err
}

// checkMembers holds the data against the trailers of the members that end in w.
func (t *walker) checkMembers(w *work) error {
	rest := w.data
	for _, e := range w.ends {
		n := len(rest) - int(t.out-e.out)
		t.crc = crc32.Update(t.crc, crc32.IEEETable, rest[:n])
		rest = rest[n:]
		if e.crc != t.crc {
			return &FormatError{Field: "gzip trailer", Off: e.off, Err: fmt.Errorf("%w: stored %08x, computed %08x", errCRC, e.crc, t.crc)}
		}
		if size := uint32(e.out - t.memberAt); e.size != size {
			return &FormatError{Field: "gzip trailer", Off: e.off + 4, Err: fmt.Errorf("%w: stored %d, inflated %d", errISize, e.size, size)}
		}
		t.crc, t.memberAt = 0, e.out
	}
	t.crc = crc32.Update(t.crc, crc32.IEEETable, rest)
	return nil
}

// candidate takes a checkpoint where the incumbent does: at uncompressed offset 0,
// and where more than the span size has been inflated since the last one.
func (t *walker) candidate(w *work, b *blockStart) error {
	if b.out != 0 && b.out-t.last <= t.p.opts.spanSize {
		return nil
	}
	t.last = b.out
	c := cutAt(b.bit)
	if err := t.begin(c, Span{In: Range{Off: c.start}, Out: Range{Off: b.out}, Bits: uint8(-b.bit & 7)}, maxGzipSpans); err != nil {
		return err
	}
	if b.out == 0 {
		return t.p.opts.window(nil)
	}
	end := len(w.hist) + int(b.out-w.off)
	from := w.buf[windowSize-len(w.hist):][:end]
	return t.p.opts.window(from[max(0, end-windowSize):])
}

// cutPlain cuts an uncompressed layer at multiples of the span sizes.
func (t *walker) cutPlain(w *work) error {
	for ; t.next[coarse] < t.out; t.next[coarse] += t.p.opts.spanSize {
		off := t.next[coarse]
		if err := t.begin(cut{off, off}, Span{In: Range{Off: off}, Out: Range{Off: off}}, maxPlainSpans); err != nil {
			return err
		}
	}
	t.batch.settled[coarse] = t.out
	if t.p.opts.compactSize == 0 {
		return nil
	}
	for ; t.next[compact] < t.out; t.next[compact] += t.p.opts.compactSize {
		off := t.next[compact]
		t.batch.cuts[compact] = append(t.batch.cuts[compact], cut{off, off})
	}
	t.batch.settled[compact] = t.out
	return nil
}

// begin begins span s of 0.9 at c; a layer has at most most of them.
func (t *walker) begin(c cut, s Span, most int) error {
	n := len(t.spans)
	if n >= most {
		return fmt.Errorf("span %d: %w: the zTOC would exceed %d bytes: use a larger span size", n, ErrLimit, int64(MaxSize))
	}
	if n > 0 {
		t.spans[n-1].In.Len = c.end - t.spans[n-1].In.Off
	}
	t.spans = append(t.spans, s)
	t.batch.cuts[coarse] = append(t.batch.cuts[coarse], c)
	return nil
}

// lens sets the lengths of the spans and checks them: Unmarshal would not take a longer one.
func (t *walker) lens() error {
	last := &t.spans[len(t.spans)-1]
	last.In.Len = t.size - last.In.Off
	setOutLens(t.spans, t.tarSize)
	for i := range t.spans {
		if s := &t.spans[i]; s.In.Len > MaxSpan || s.Out.Len > MaxSpan {
			return fmt.Errorf("span %d: %w: %d bytes from %d: at most %d", i, ErrLimit, s.Out.Len, s.In.Len, int64(MaxSpan))
		}
	}
	return nil
}

// result is what the pass has found out, with the digests of d.
func (t *walker) result(d *digester) *result {
	r := &result{
		zinfo: &ZInfo{
			Compression:      t.c,
			SpanSize:         t.p.opts.spanSize,
			CompressedSize:   t.size,
			UncompressedSize: t.tarSize,
			Spans:            t.spans,
		},
		out:     t.out,
		compact: d.spans[compact].sums,
	}
	for i := range t.spans {
		t.spans[i].Sum = d.spans[coarse].sums[i]
	}
	if d.layer.hash != nil {
		d.layer.hash.Sum(r.layer[:0])
		if r.diffID = r.layer; t.c == Gzip {
			d.plain.hash.Sum(r.diffID[:0])
		}
	}
	return r
}

// setOutLens sets Out.Len of spans from their neighbours' offsets. Padding behind
// the tar's end-of-archive marker, behind size, belongs to no span's output.
func setOutLens(spans []Span, size int64) {
	next := size
	for i := len(spans) - 1; i >= 0; i-- {
		out := &spans[i].Out
		out.Len = max(0, min(next, size)-out.Off)
		next = out.Off
	}
}

// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

// SpanWork is the decoding of one span by DecodePair.
type SpanWork struct {
	ZInfo *ZInfo
	ID    int    // of the span
	Src   []byte // the verified bytes of its In
	Dst   []byte // as many bytes as its Out
	Err   error  // what Decode would return
}

// DecodePair is Decode for two spans, of any layers. On amd64 both are decoded at
// once, which takes less of a core than one after the other: while one waits for a
// table look-up the other goes on. It is safe for concurrent use and does not
// allocate after warm-up.
func DecodePair(a, b *SpanWork) {
	x, y := a.begin(), b.begin()
	for x != nil && y != nil {
		inflate.DecodePair(&x.job, &y.job)
		x, y = a.turn(x), b.turn(y)
	}
	a.alone(x)
	b.alone(y)
}

// begin opens the span and returns its decoder with the first call of the inflater
// to be made; nil if there is none.
func (w *SpanWork) begin() *SpanDecoder {
	d, err := w.ZInfo.Open(w.ID, w.Src)
	if w.Err = err; err != nil {
		return nil
	}
	if w.ZInfo.Compression == Uncompressed || len(w.Dst) == 0 || int64(len(w.Dst)) != d.span.Out.Len {
		defer d.Close()
		_, w.Err = d.Fill(w.Dst, int64(len(w.Dst)))
		return nil
	}
	return w.next(d)
}

// turn takes what the inflater has returned, if it has, and returns d with its next
// call; nil if there is none.
func (w *SpanWork) turn(d *SpanDecoder) *SpanDecoder {
	if d.job.Stop == 0 && d.job.Err == nil {
		return d // it is under way
	}
	if err := d.took(); err != nil {
		return w.done(d, err)
	}
	return w.next(d)
}

// next prepares the next call of the inflater.
func (w *SpanWork) next(d *SpanDecoder) *SpanDecoder {
	size := int64(len(w.Dst))
	if d.done() >= size {
		return w.done(d, d.arrive(w.Dst))
	}
	if err := d.call(d.next(w.Dst, size)); err != nil {
		return w.done(d, err)
	}
	return d
}

// alone does the rest without a partner.
func (w *SpanWork) alone(d *SpanDecoder) {
	for d != nil {
		d.job.Decode()
		d = w.turn(d)
	}
}

// done ends the work.
func (w *SpanWork) done(d *SpanDecoder, err error) *SpanDecoder {
	if err != nil {
		w.Err = d.fault(err)
	}
	d.Close()
	return nil
}

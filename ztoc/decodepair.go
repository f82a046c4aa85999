// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

// SpanWork is the decoding of one span by a PairDecoder.
type SpanWork struct {
	ZInfo *ZInfo
	ID    int    // of the span
	Src   []byte // the verified bytes of its In
	Dst   []byte // as many bytes as its Out
	Err   error  // what Decode would return
}

// PairDecoder decodes spans, of any layers, two at a time on one core. On amd64 that
// takes less of the core than one after the other: while one waits for a table
// look-up the other goes on. Whoever has many spans keeps it full:
//
//	var p ztoc.PairDecoder
//	for {
//		for p.Len() < 2 && more() {
//			p.Add(take())
//		}
//		w := p.Next()
//		if w == nil {
//			break
//		}
//		...
//	}
//
// Its zero value is empty. It is not for concurrent use, and does not allocate after
// warm-up. One that is dropped leaves the spans under way undone.
type PairDecoder struct {
	works [2]*SpanWork
	spans [2]*SpanDecoder // nil: the work is done
}

// Len is the number of spans under way, 0 to 2.
func (p *PairDecoder) Len() (n int) {
	for _, w := range p.works {
		if w != nil {
			n++
		}
	}
	return n
}

// Add takes up a span; Len must be below 2. w, and the bytes it refers to, belong to
// p until Next returns it.
func (p *PairDecoder) Add(w *SpanWork) {
	i := 0
	if p.works[0] != nil {
		i = 1
	}
	if p.works[i] != nil {
		panic("ztoc: internal error: PairDecoder.Add: two spans are under way")
	}
	p.works[i], p.spans[i] = w, w.begin()
}

// Next goes on until one of the spans is done or has failed, and returns it. The other
// stays as far as it has come. It returns nil if none is under way.
func (p *PairDecoder) Next() *SpanWork {
	for {
		for i, w := range p.works {
			if w != nil && p.spans[i] == nil {
				p.works[i] = nil
				return w
			}
		}
		a, b := p.spans[0], p.spans[1]
		switch {
		case a != nil && b != nil:
			inflate.DecodePair(&a.job, &b.job)
		case a != nil:
			a.job.Decode()
		case b != nil:
			b.job.Decode()
		default:
			return nil
		}
		for i, d := range p.spans {
			if d != nil {
				p.spans[i] = p.works[i].turn(d)
			}
		}
	}
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

// done ends the work.
func (w *SpanWork) done(d *SpanDecoder, err error) *SpanDecoder {
	if err != nil {
		w.Err = d.fault(err)
	}
	d.Close()
	return nil
}

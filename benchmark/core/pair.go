// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/seekoci/seekoci/ztoc"
)

// pairDecoder decodes the spans of one layer two at a time on one processor.
type pairDecoder struct {
	z    *ztoc.ZInfo
	data []byte // the layer
	room [2][]byte
}

func newPairDecoder(z *ztoc.ZInfo, data []byte) *pairDecoder {
	d := newSpanDecoder(z, data, nil)
	return &pairDecoder{z, data, [2][]byte{d.room, make([]byte, len(d.room))}}
}

// work is the decoding of span id, by the half of the pair.
func (d *pairDecoder) work(half, id int) *ztoc.SpanWork {
	s := &d.z.Spans[id]
	return &ztoc.SpanWork{ZInfo: d.z, ID: id, Src: d.data[s.In.Off:s.In.End()], Dst: d.room[half][:s.Out.Len]}
}

// each decodes all spans, neighbours together, and passes them on in order.
func (d *pairDecoder) each(yield func(p []byte) error) error {
	for id := 0; id < len(d.z.Spans); id += 2 {
		works := []*ztoc.SpanWork{d.work(0, id)}
		if id+1 < len(d.z.Spans) {
			works = append(works, d.work(1, id+1))
			ztoc.DecodePair(works[0], works[1])
		} else {
			works[0].Err = d.z.Decode(works[0].Dst, id, works[0].Src)
		}
		for _, w := range works {
			if w.Err != nil {
				return w.Err
			}
			if err := yield(w.Dst); err != nil {
				return err
			}
		}
	}
	return nil
}

// decodeAll decodes all spans.
func (d *pairDecoder) decodeAll() error {
	errs := make(chan error)
	go func() {
		runtime.LockOSThread() // as the other contenders: a thread of its own, bound to the first processor
		err := pin(0, 1)
		if err == nil {
			err = d.each(func([]byte) error { return nil })
		}
		errs <- err
	}()
	return <-errs
}

// check compares the spans with those that are decoded one by one.
func (d *pairDecoder) check() error {
	one := newSpanDecoder(d.z, d.data, ours)
	id := 0
	err := d.each(func(p []byte) error {
		want, err := one.span(id)
		if err == nil && !bytes.Equal(p, want) {
			err = fmt.Errorf("span %d differs when decoded with its neighbour", id)
		}
		id++
		return err
	})
	if err == nil && id != len(d.z.Spans) {
		err = errors.Join(io.ErrUnexpectedEOF, fmt.Errorf("%d of %d spans", id, len(d.z.Spans)))
	}
	return err
}

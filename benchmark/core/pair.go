// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"runtime"

	"github.com/seekoci/seekoci/ztoc"
)

// pairDecoder decodes the spans of one layer two at a time on one processor.
type pairDecoder struct {
	z     *ztoc.ZInfo
	data  []byte // the layer
	works [2]ztoc.SpanWork
	rooms [2][]byte // for the output of works
}

func newPairDecoder(z *ztoc.ZInfo, data []byte) *pairDecoder {
	d := &pairDecoder{z: z, data: data}
	for i := range d.rooms {
		d.rooms[i] = newSpanDecoder(z, data, nil).room
	}
	return d
}

// each decodes all spans and passes them on as they are done. The next span takes the
// place of one that is done while the other goes on.
func (d *pairDecoder) each(yield func(w *ztoc.SpanWork) error) error {
	var p ztoc.PairDecoder
	next := 0
	add := func(i int) {
		if next < len(d.z.Spans) {
			s := &d.z.Spans[next]
			d.works[i] = ztoc.SpanWork{ZInfo: d.z, ID: next, Src: d.data[s.In.Off:s.In.End()], Dst: d.rooms[i][:s.Out.Len]}
			p.Add(&d.works[i])
			next++
		}
	}
	add(0)
	add(1)
	for w := p.Next(); w != nil; w = p.Next() {
		if w.Err != nil {
			return w.Err
		}
		if err := yield(w); err != nil {
			return err
		}
		if w == &d.works[0] {
			add(0)
		} else {
			add(1)
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
			err = d.each(func(*ztoc.SpanWork) error { return nil })
		}
		errs <- err
	}()
	return <-errs
}

// check compares the spans with those that are decoded one by one.
func (d *pairDecoder) check() error {
	one := newSpanDecoder(d.z, d.data, ours)
	seen := make(map[int]bool)
	err := d.each(func(w *ztoc.SpanWork) error {
		want, err := one.span(w.ID)
		if err == nil && !bytes.Equal(w.Dst, want) {
			err = fmt.Errorf("span %d differs when decoded with another", w.ID)
		}
		seen[w.ID] = true
		return err
	})
	if err == nil && len(seen) != len(d.z.Spans) {
		err = fmt.Errorf("%d of %d spans: %w", len(seen), len(d.z.Spans), io.ErrUnexpectedEOF)
	}
	return err
}

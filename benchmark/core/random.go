// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/seekoci/seekoci/ztoc"
)

// What a random read reads, and how many are timed together.
const (
	readSize  = 4 << 10
	readCount = 100
)

// random measures reads of 4 KiB at random offsets of l, the layer in memory and
// nothing decoded before. What is decoded has been verified.
func (b *bench) random(ctx context.Context, l *layer) error {
	x, err := b.index(ctx, l)
	if err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	offs := make([]int64, readCount)
	for i := range offs {
		offs[i] = rnd.Int64N(x.ztoc.ZInfo.UncompressedSize - readSize)
	}
	const (
		peer  = "0.9 zTOC, whole spans by klauspost/compress"
		whole = "0.9 zTOC, whole spans"
		part  = "0.9 zTOC, as far as needed"
		finer = "compact zTOC, as far as needed"
	)
	theirs := newSpanDecoder(x.ztoc.ZInfo, x.data, klauspost())
	own := newSpanDecoder(x.ztoc.ZInfo, x.data, ours)
	buf := make([]byte, readSize)
	readers := map[string]func(off int64) ([]byte, error){
		peer:  func(off int64) ([]byte, error) { return theirs.readWhole(buf, off) },
		whole: func(off int64) ([]byte, error) { return own.readWhole(buf, off) },
		part:  func(off int64) ([]byte, error) { return buf, readPart(buf, x.ztoc.ZInfo, x.data, off) },
		finer: func(off int64) ([]byte, error) { return buf, readPart(buf, x.compact.ZInfo(), x.data, off) },
	}
	var contenders []*contender
	for _, name := range []string{peer, whole, part, finer} {
		read := readers[name]
		for _, off := range offs {
			want, err := own.readWhole(make([]byte, readSize), off)
			if err != nil {
				return err
			}
			if got, err := read(off); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			} else if !bytes.Equal(got, want) {
				return fmt.Errorf("%s: wrong bytes at %d", name, off)
			}
		}
		contenders = append(contenders, inProcess(name, func() error {
			for _, off := range offs {
				if _, err := read(off); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	if err := race(ctx, b.rounds, contenders); err != nil {
		return err
	}
	b.contest(fmt.Sprintf("%s: read %d bytes at %d random offsets, digests of spans checked; compact spans of %d KiB", l.name, readSize, readCount, x.compact.ZInfo().SpanSize>>10), rate{"µs/read", func(s float64) float64 { return s / readCount * 1e6 }}, contenders, peer)
	b.goal("4 KiB at a random offset, CPU time of a whole 4 MiB span by klauspost / ours", l, byName(contenders, peer).cpu.Ratio(byName(contenders, finer).cpu), want{15, 40})
	return nil
}

// readWhole fills p from the spans at off, each of which is verified and decoded whole.
func (d *spanDecoder) readWhole(p []byte, off int64) ([]byte, error) {
	first, end := d.z.SpansOf(ztoc.Range{Off: off, Len: int64(len(p))})
	n := 0
	for id := first; id < end; id++ {
		s := &d.z.Spans[id]
		if err := d.z.Verify(id, d.data[s.In.Off:s.In.End()]); err != nil {
			return nil, err
		}
		b, err := d.span(id)
		if err != nil {
			return nil, err
		}
		n += copy(p[n:], b[off+int64(n)-s.Out.Off:])
	}
	return p, nil
}

// readPart fills p from the spans at off, each of which is verified, and decoded as far as needed.
func readPart(p []byte, z *ztoc.ZInfo, data []byte, off int64) error {
	first, end := z.SpansOf(ztoc.Range{Off: off, Len: int64(len(p))})
	for id := first; id < end; id++ {
		s := &z.Spans[id]
		src := data[s.In.Off:s.In.End()]
		if err := z.Verify(id, src); err != nil {
			return err
		}
		n := min(int64(len(p)), s.Out.End()-off)
		if err := z.DecodeRange(p[:n], id, off-s.Out.Off, src); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/seekoci/seekoci/benchmark/internal/peer"
	"github.com/seekoci/seekoci/benchmark/internal/stat"
	"github.com/seekoci/seekoci/ztoc"
)

// spans measures the decoding of all spans of l, from and to memory, without the
// digests of the compressed bytes.
func (b *bench) spans(ctx context.Context, l *layer) error {
	x, err := b.index(ctx, l)
	if err != nil {
		return err
	}
	z := x.ztoc.ZInfo
	for _, check := range []*spanDecoder{newSpanDecoder(z, x.data, ours), newSpanDecoder(z, x.data, klauspost()), newSpanDecoder(x.compact.ZInfo(), x.data, ours)} {
		if err := check.check(l); err != nil {
			return err
		}
	}
	const (
		single = "one processor"
		paired = "one processor, two spans at once"
		both   = "two processors"
		peer   = "one processor, klauspost/compress"
	)
	one, two := newSpanDecoder(z, x.data, ours), newSpanDecoder(z, x.data, ours)
	theirs := newSpanDecoder(z, x.data, klauspost())
	pairs := newPairDecoder(z, x.data)
	if err := pairs.check(); err != nil {
		return err
	}
	contenders := []*contender{
		inProcess(single, func() error { return decodeAll(one) }),
		inProcess(paired, pairs.decodeAll),
		inProcess(both, func() error { return decodeAll(one, two) }),
		inProcess(peer, func() error { return decodeAll(theirs) }),
	}
	if err := race(ctx, b.rounds, contenders); err != nil {
		return err
	}
	b.contest(fmt.Sprintf("%s: decode the %d spans of its 0.9 zTOC, in memory", l.name, len(z.Spans)), megabytes(z.UncompressedSize), contenders, single)
	b.goal("span decode on two processors, speed against one", l, byName(contenders, single).wall.Ratio(byName(contenders, both).wall), want{1.9, 2.0})
	b.goal("two spans at once on one processor (amd64), CPU time one after the other / ours", l, byName(contenders, single).cpu.Ratio(byName(contenders, paired).cpu), want{1.15, 1.3})
	n, err := one.allocations(100)
	if err != nil {
		return err
	}
	b.goal("span decode, allocations per call", l, stat.Series{n}, want{0, 0})
	return nil
}

// decode decodes span id of z from src, behind whose end the layer goes on.
type decode func(dst []byte, z *ztoc.ZInfo, id int, src []byte) error

// ours decodes with package ztoc.
func ours(dst []byte, z *ztoc.ZInfo, id int, src []byte) error { return z.Decode(dst, id, src) }

// klauspost decodes with one reader of klauspost/compress for all spans.
func klauspost() decode {
	decode := peer.Klauspost()
	return func(dst []byte, z *ztoc.ZInfo, id int, src []byte) error {
		return decode(dst, z, id, src[:min(len(src)+2, cap(src))]) // it looks at bits behind a block
	}
}

// spanDecoder decodes spans of one layer, to memory that it uses again.
type spanDecoder struct {
	z      *ztoc.ZInfo
	data   []byte // the layer
	decode decode
	room   []byte
}

func newSpanDecoder(z *ztoc.ZInfo, data []byte, decode decode) *spanDecoder {
	var size int64
	for i := range z.Spans {
		size = max(size, z.Spans[i].Out.Len)
	}
	return &spanDecoder{z, data, decode, make([]byte, size)}
}

// span decodes a span. The bytes are valid until the next call.
func (d *spanDecoder) span(id int) ([]byte, error) {
	s := &d.z.Spans[id]
	dst := d.room[:s.Out.Len]
	return dst, d.decode(dst, d.z, id, d.data[s.In.Off:s.In.End()])
}

// check compares all spans with the layer's archive.
func (d *spanDecoder) check(l *layer) error {
	sum := sha256.New()
	for id := range d.z.Spans {
		p, err := d.span(id)
		if err != nil {
			return err
		}
		sum.Write(p)
	}
	if got := digest.NewDigest(digest.SHA256, sum); got != l.archive {
		return fmt.Errorf("the %d spans of %s decode to %s, not %s", len(d.z.Spans), l.name, got, l.archive)
	}
	return nil
}

// allocations is how many there are per call, in runs calls that follow others.
func (d *spanDecoder) allocations(runs int) (float64, error) {
	var before, after runtime.MemStats
	for i := range 2 * runs {
		if i == runs {
			runtime.ReadMemStats(&before)
		}
		if _, err := d.span(i % len(d.z.Spans)); err != nil {
			return 0, err
		}
	}
	runtime.ReadMemStats(&after)
	return float64((after.Mallocs - before.Mallocs) / uint64(runs)), nil // whole ones: the runtime has its own now and then
}

// decodeAll decodes all spans, shared among the decoders, each on a processor of its own.
func decodeAll(ds ...*spanDecoder) error {
	var g errgroup.Group
	var next atomic.Int64
	for i, d := range ds {
		g.Go(func() error {
			runtime.LockOSThread() // and never unlocked: the thread ends with its binding
			if err := pin(i, i+1); err != nil {
				return err
			}
			for id := next.Add(1) - 1; id < int64(len(d.z.Spans)); id = next.Add(1) - 1 {
				if _, err := d.span(int(id)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

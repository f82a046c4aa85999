// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
)

// The two kinds of spans, as indexes.
const (
	coarse  = iota // of 0.9
	compact        // of the compact zTOC
)

// batch is what the third stage hands to the fourth.
type batch struct {
	chunks  []*chunk
	cuts    [2][]cut
	settled [2]int64 // no later cut of the kind has a start before it
	last    bool     // the chunks are the layer's last
}

// digester is the fourth stage: it digests the compressed bytes, whole and by spans.
type digester struct {
	p     *pass
	layer hash.Hash // nil: not wanted
	spans [2]spanner
}

func newDigester(p *pass) *digester {
	d := &digester{p: p}
	d.spans[coarse].hash = sha256.New()
	if p.opts.compactSize > 0 {
		d.spans[compact].hash = sha256.New()
	}
	if p.opts.digests {
		d.layer = sha256.New()
	}
	return d
}

// run takes batches up to the last.
func (d *digester) run(ctx context.Context) {
	for {
		b, ok := receive(ctx, d.p.sums)
		if !ok {
			return
		}
		for i := range d.spans {
			d.spans[i].cuts = append(d.spans[i].cuts, b.cuts[i]...)
		}
		for _, c := range b.chunks {
			if d.layer != nil {
				d.layer.Write(c.bytes())
			}
			for i := range d.spans {
				d.spans[i].write(c.bytes(), b.settled[i])
			}
			d.p.freeChunks.put(c)
		}
		if b.last {
			for i := range d.spans {
				d.spans[i].write(nil, b.settled[i])
				d.spans[i].end()
			}
			return
		}
	}
}

// spanner cuts the compressed bytes of a layer into spans and digests each. Bytes
// may arrive before it is known where the current span ends: those behind the last
// settled offset are kept.
type spanner struct {
	hash    hash.Hash // nil: not wanted
	sums    [][sha256.Size]byte
	open    bool  // bytes belong to a span; false before the first
	cuts    []cut // known, and not reached yet
	base    int64 // offset of the first byte that has not been digested
	pending []byte
}

// write delivers the next compressed bytes. No cut beyond those known starts before
// settled.
func (s *spanner) write(p []byte, settled int64) {
	if s.hash == nil {
		return
	}
	end := s.base + int64(len(s.pending)+len(p))
	for len(s.cuts) > 0 && s.cuts[0].end <= end {
		c := s.cuts[0]
		s.cuts = s.cuts[1:]
		p = s.digest(p, c.start)
		if c.end > c.start && s.open { // the byte is the next span's, too
			if len(s.pending) > 0 {
				s.hash.Write(s.pending[:1])
			} else {
				s.hash.Write(p[:1])
			}
		}
		s.end()
		s.open = true
	}
	settled = min(settled, end)
	if len(s.cuts) > 0 {
		settled = min(settled, s.cuts[0].start)
	}
	if settled > s.base {
		p = s.digest(p, settled)
	}
	s.pending = append(s.pending, p...)
}

// digest digests the bytes before off, the pending ones and then those of p, and
// returns the rest of p.
func (s *spanner) digest(p []byte, off int64) []byte {
	n := off - s.base
	if n < 0 {
		panic(fmt.Sprintf("ztoc: internal error: a span begins at %d, where all up to %d is settled", off, s.base))
	}
	s.base = off
	k := min(int(n), len(s.pending))
	if s.open {
		s.hash.Write(s.pending[:k])
	}
	s.pending = append(s.pending[:0], s.pending[k:]...)
	n -= int64(k)
	if s.open {
		s.hash.Write(p[:n])
	}
	return p[n:]
}

// end ends the current span.
func (s *spanner) end() {
	if !s.open {
		return
	}
	var sum [sha256.Size]byte
	s.hash.Sum(sum[:0])
	s.sums = append(s.sums, sum)
	s.hash.Reset()
	s.open = false
}

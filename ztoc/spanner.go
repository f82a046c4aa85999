// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"slices"

	"github.com/seekoci/seekoci/ztoc/internal/sha256x2"
)

// The two kinds of spans, as indexes.
const (
	coarse  = iota // of 0.9
	compact        // of the compact zTOC
)

// batch is what the third stage hands to the fourth.
type batch struct {
	work    *work // with the chunks; nil in the last batch
	cuts    [2][]cut
	settled [2]int64 // no later cut of the kind has a start before it
}

// digester is the fourth stage: it digests the uncompressed bytes, and the
// compressed ones whole and by spans.
type digester struct {
	p      *pass
	layer  hash.Hash // nil: not wanted
	diffID partner
	spans  [2]spanner
}

func newDigester(p *pass) *digester {
	d := &digester{p: p, diffID: partner{p: p}}
	d.spans[coarse] = spanner{hash: sha256.New(), with: &d.diffID}
	if p.opts.compactSize > 0 {
		d.spans[compact] = spanner{hash: sha256.New(), with: &d.diffID}
	}
	if p.opts.digests {
		d.layer, d.diffID.hash = sha256.New(), sha256.New()
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
		if b.work == nil {
			for i := range d.spans {
				d.spans[i].write(nil, b.settled[i])
				d.spans[i].end()
			}
			d.diffID.flush(0)
			return
		}
		d.digest(b.work, b.settled)
	}
}

// digest digests the bytes of w and of the chunks that it brings, and frees all.
func (d *digester) digest(w *work, settled [2]int64) {
	chunks := w.chunks
	w.chunks = nil // w may be with the next stage again before they are done
	d.diffID.supply(w)
	for _, c := range chunks {
		if d.layer != nil {
			d.diffID.write(d.layer, c.bytes())
		}
		for i := range d.spans {
			d.spans[i].write(c.bytes(), settled[i])
		}
		d.p.freeChunks.put(c)
	}
	d.diffID.flush(maxSupply)
}

// maxSupply is how many pieces wait for chunks to be digested with: few bring any.
const maxSupply = 3

// partner is the digest of the pieces' bytes, which go along with those of other
// digests: two at once take little longer than one.
type partner struct {
	p     *pass
	hash  hash.Hash // nil: the pieces are not to be digested
	works []*work   // the supply
	rest  []byte    // of the first of works
}

// supply takes w, and frees it when its bytes have been digested.
func (p *partner) supply(w *work) {
	if p.hash == nil || w.compression != Gzip || len(w.data) == 0 {
		p.p.freeWorks.put(w)
		return
	}
	if p.works = append(p.works, w); len(p.works) == 1 {
		p.rest = w.data
	}
}

// write adds q to h.
func (p *partner) write(h hash.Hash, q []byte) {
	for len(p.works) > 0 && len(q) > 0 {
		n := min(len(p.rest), len(q))
		sha256x2.Write(p.hash, h, p.rest[:n], q[:n])
		p.rest, q = p.rest[n:], q[n:]
		if len(p.rest) == 0 {
			p.done()
		}
	}
	h.Write(q)
}

// flush digests what there is beyond n pieces.
func (p *partner) flush(n int) {
	for len(p.works) > n {
		p.hash.Write(p.rest)
		p.done()
	}
}

// done frees the first piece.
func (p *partner) done() {
	p.p.freeWorks.put(p.works[0])
	if p.works = slices.Delete(p.works, 0, 1); len(p.works) > 0 {
		p.rest = p.works[0].data
	}
}

// spanner cuts the compressed bytes of a layer into spans and digests each. Bytes
// may arrive before it is known where the current span ends: those behind the last
// settled offset are kept.
type spanner struct {
	hash    hash.Hash // nil: not wanted
	with    *partner
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
				s.with.write(s.hash, s.pending[:1])
			} else {
				s.with.write(s.hash, p[:1])
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
		s.with.write(s.hash, s.pending[:k])
	}
	s.pending = append(s.pending[:0], s.pending[k:]...)
	n -= int64(k)
	if s.open {
		s.with.write(s.hash, p[:n])
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

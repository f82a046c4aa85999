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
// compressed ones whole and by spans. Two of these streams at once take little longer
// than one, so it is always the two that have the most to do that go on together.
type digester struct {
	p     *pass
	layer lane
	plain lane    // the uncompressed bytes
	works []*work // that plain has to do, a stretch each
	spans [2]spanner
}

func newDigester(p *pass) *digester {
	d := &digester{p: p}
	d.spans[coarse].hash = sha256.New()
	if p.opts.compactSize > 0 {
		d.spans[compact].hash = sha256.New()
	}
	if p.opts.digests {
		d.layer.hash, d.plain.hash = sha256.New(), sha256.New()
	}
	return d
}

// run takes batches up to the last. It reports false if ctx ends before.
func (d *digester) run(ctx context.Context) bool {
	for {
		b, ok := receive(ctx, d.p.sums)
		if !ok {
			return false
		}
		for i := range d.spans {
			d.spans[i].cuts = append(d.spans[i].cuts, b.cuts[i]...)
		}
		if b.work != nil {
			d.digest(b.work, b.settled)
			continue
		}
		for i := range d.spans {
			d.spans[i].write(nil, b.settled[i])
			d.spans[i].close()
		}
		d.catchUp()
		d.flush(0)
		return true
	}
}

const (
	maxSupply = 6        // pieces that wait for chunks to be digested with: few bring any
	turn      = 64 << 10 // bytes of two lanes that go together, before looking which two are next
)

// digest digests the bytes of w and of the chunks that it brings, and frees all.
func (d *digester) digest(w *work, settled [2]int64) {
	chunks := w.chunks
	w.chunks = nil // w may be with the next stage again before they are done
	if d.plain.hash == nil || w.compression != Gzip || len(w.data) == 0 {
		d.p.freeWorks.put(w)
	} else {
		d.plain.add(w.data)
		d.works = append(d.works, w)
	}
	for _, c := range chunks {
		d.layer.add(c.bytes())
		for i := range d.spans {
			d.spans[i].write(c.bytes(), settled[i])
		}
		d.catchUp()
		d.p.freeChunks.put(c)
	}
	d.flush(maxSupply)
}

// catchUp digests all compressed bytes that there are, along with uncompressed ones.
func (d *digester) catchUp() {
	for d.layer.left+d.spans[coarse].left+d.spans[compact].left > 0 {
		var a, b *lane // a has the most to do
		for _, l := range [...]*lane{&d.plain, &d.layer, &d.spans[coarse].lane, &d.spans[compact].lane} {
			switch {
			case l.left == 0:
			case a == nil || l.left > a.left:
				a, b = l, a
			case b == nil || l.left > b.left:
				b = l
			}
		}
		if b == nil {
			a.alone()
			continue
		}
		p, q := a.next(), b.next()
		n := min(len(p), len(q), turn)
		sha256x2.Write(a.hash, b.hash, p[:n], q[:n])
		a.done(n)
		b.done(n)
	}
	d.free()
}

// flush digests what there is beyond n pieces.
func (d *digester) flush(n int) {
	for len(d.works) > n {
		d.plain.alone()
		d.free()
	}
}

// free frees the pieces that have been digested.
func (d *digester) free() {
	n := len(d.works) - len(d.plain.todo)
	for _, w := range d.works[:n] {
		d.p.freeWorks.put(w)
	}
	d.works = slices.Delete(d.works, 0, n)
}

// lane is a stream of bytes to be digested, cut into one or more digests.
type lane struct {
	hash hash.Hash // nil: not wanted
	todo []stretch // none of them empty
	left int       // bytes of todo
	sums [][sha256.Size]byte
}

// stretch is bytes that a lane has yet to digest.
type stretch struct {
	p    []byte
	ends int // digests that end behind it
}

// add adds p, which must stay as it is until it has been digested.
func (l *lane) add(p []byte) {
	if l.hash != nil && len(p) > 0 {
		l.todo = append(l.todo, stretch{p: p})
		l.left += len(p)
	}
}

// end ends a digest behind what has been added.
func (l *lane) end() {
	if n := len(l.todo); n > 0 {
		l.todo[n-1].ends++
		return
	}
	l.sum()
}

// next returns the bytes that are to be digested next.
func (l *lane) next() []byte { return l.todo[0].p }

// done says that n of these have been.
func (l *lane) done(n int) {
	l.left -= n
	s := &l.todo[0]
	if s.p = s.p[n:]; len(s.p) > 0 {
		return
	}
	for range s.ends {
		l.sum()
	}
	l.todo = slices.Delete(l.todo, 0, 1)
}

// alone digests them.
func (l *lane) alone() {
	p := l.next()
	l.hash.Write(p)
	l.done(len(p))
}

// sum ends the digest.
func (l *lane) sum() {
	var sum [sha256.Size]byte
	l.hash.Sum(sum[:0])
	l.sums = append(l.sums, sum)
	l.hash.Reset()
}

// spanner cuts the compressed bytes of a layer into spans, each with a digest. Bytes
// may arrive before it is known where the current span ends: those behind the last
// settled offset are kept.
type spanner struct {
	lane
	open    bool   // bytes belong to a span; false before the first
	cuts    []cut  // known, and not reached yet
	base    int64  // offset of the first byte that has not been added to the lane
	pending []byte // from there on, the rest of kept
	kept    []byte
	spare   []byte // what kept was before: the lane may have parts of it
}

// write delivers the next compressed bytes. No cut beyond those known starts before
// settled. The lane must have done what it has before the next call.
func (s *spanner) write(p []byte, settled int64) {
	if s.hash == nil {
		return
	}
	end := s.base + int64(len(s.pending)+len(p))
	for len(s.cuts) > 0 && s.cuts[0].end <= end {
		c := s.cuts[0]
		s.cuts = s.cuts[1:]
		p = s.advance(p, c.start)
		if c.end > c.start && s.open { // the byte is the next span's, too
			if len(s.pending) > 0 {
				s.add(s.pending[:1])
			} else {
				s.add(p[:1])
			}
		}
		s.close()
		s.open = true
	}
	settled = min(settled, end)
	if len(s.cuts) > 0 {
		settled = min(settled, s.cuts[0].start)
	}
	if settled > s.base {
		p = s.advance(p, settled)
	}
	s.keep(p)
}

// keep adds p to what is pending.
func (s *spanner) keep(p []byte) {
	if len(s.pending) == len(s.kept) { // the lane has nothing of it
		s.kept = append(s.kept, p...)
	} else {
		s.kept, s.spare = append(append(s.spare[:0], s.pending...), p...), s.kept
	}
	s.pending = s.kept
}

// advance adds the bytes before off to the lane, the pending ones and then those of
// p, and returns the rest of p.
func (s *spanner) advance(p []byte, off int64) []byte {
	n := off - s.base
	if n < 0 {
		panic(fmt.Sprintf("ztoc: internal error: a span begins at %d, where all up to %d is settled", off, s.base))
	}
	s.base = off
	k := min(int(n), len(s.pending))
	if s.open {
		s.add(s.pending[:k])
	}
	s.pending = s.pending[k:]
	n -= int64(k)
	if s.open {
		s.add(p[:n])
	}
	return p[n:]
}

// close ends the current span.
func (s *spanner) close() {
	if s.open {
		s.end()
		s.open = false
	}
}

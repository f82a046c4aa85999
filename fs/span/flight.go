// SPDX-License-Identifier: Apache-2.0

package span

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/seekoci/seekoci/ztoc"
)

// flight is one span on its way to its readers. Guarded by Layer.mu.
type flight struct {
	span  int
	req   *request // that is to bring its bytes
	job   *job     // that decodes them; nil until they are there
	tries int      // times the bytes did not match their digest
	waits []wait

	buf     []byte // the span's bytes, as far as ready, until the flight leaves Layer.flights
	ready   int64
	settled bool // all bytes are ready, or the flight has failed
}

// wait is one read's wish for a piece of a span on its way.
type wait struct {
	r  *read
	pc piece
}

// end is how much of the span the wait needs.
func (w wait) end() int64 { return w.pc.from + int64(len(w.pc.p)) }

// read is one who waits for spans: a reader, or Fill or Prefetch. Guarded by
// Layer.mu, but for done.
type read struct {
	class   class
	pending []*flight // joined
	left    int       // of them not served
	err     error
	ended   bool          // done is closed
	done    chan struct{} // closed when left is zero or err is set
}

func newRead(c class) *read { return &read{class: c, done: make(chan struct{})} }

// end wakes the reader.
func (r *read) end(err error) {
	if !r.ended {
		r.err, r.ended = cmp.Or(err, r.err), true
		close(r.done)
	}
}

// served counts a wish as fulfilled.
func (r *read) served() {
	if r.left--; r.left == 0 && !r.ended {
		r.end(nil)
	}
}

// wanted reports whether a reader waits for f.
func (f *flight) wanted() bool {
	return slices.ContainsFunc(f.waits, func(w wait) bool { return w.r.class == demand })
}

// readFlights fills the pieces that are on their way or have to be fetched, and
// returns those that are on disk. It has the spans of h fetched, too.
func (l *Layer) readFlights(ctx context.Context, pcs []piece, h hints) (local []piece, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r := newRead(demand)
	local, err = l.join(ctx, r, pcs, h)
	if err != nil || r.pending == nil {
		return local, err
	}
	defer l.wait().end()
	return local, l.await(ctx, r)
}

// await waits for all that r has joined.
func (l *Layer) await(ctx context.Context, r *read) error {
	select {
	case <-r.done:
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		l.quit(r)
		return ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.quit(r) // after an error, the rest may still be on its way
	return r.err
}

// join enters a reader's wishes into the flights there are and starts requests for
// the spans nobody has asked for yet, and for those of h.
func (l *Layer) join(ctx context.Context, r *read, pcs []piece, h hints) (local []piece, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over != nil {
		return nil, &Error{Layer: l.key, Span: pcs[0].span, Err: l.over}
	}
	var fresh []*flight
	for _, pc := range pcs {
		f := l.flights[pc.span]
		w := wait{r, pc}
		switch {
		case f != nil && w.end() <= f.ready:
			copy(pc.p, f.buf[pc.from:])
			continue
		case f == nil && l.spans[pc.span].Load() == present:
			local = append(local, pc)
			continue
		case f == nil && l.store.kept.read(l, pc.span, pc.from, pc.p):
			continue
		case f == nil:
			f = l.begin(pc.span)
			fresh = append(fresh, f)
		case l.far(f):
			l.part(f)
			fresh = append(fresh, f)
		}
		l.hope(f, w)
	}
	l.launch(ctx, l.absent(l.absent(fresh, h.near), h.tail))
	if h.around {
		l.roam(ctx, pcs[len(pcs)-1].span)
	}
	return local, nil
}

// begin enters a flight for a span nobody has asked for. The caller holds l.mu.
func (l *Layer) begin(i int) *flight {
	f := &flight{span: i}
	l.flights[i] = f
	return f
}

// hope has w wait for f, as urgently as it is wanted. The caller holds l.mu.
func (l *Layer) hope(f *flight, w wait) {
	f.waits = append(f.waits, w)
	w.r.pending = append(w.r.pending, f)
	w.r.left++
	switch {
	case f.job != nil:
		if w.r.class == demand {
			l.store.decoders.promote(f.job)
		}
	case f.req != nil:
		f.req.waiting++
		if f.req.u.raise(w.r.class) {
			l.store.look()
		}
	}
}

// serve gives those who wait for f what is ready of it. The caller holds l.mu.
func (l *Layer) serve(f *flight) {
	kept := f.waits[:0]
	for _, w := range f.waits {
		switch {
		case w.r.class != demand || w.end() > f.ready:
			kept = append(kept, w)
		case !w.r.ended: // else it has failed elsewhere, and may be gone with its buffer
			copy(w.pc.p, f.buf[w.pc.from:])
			w.r.served()
		}
	}
	clear(f.waits[len(kept):])
	f.waits = kept
}

// settle serves all who wait for a span's bytes, or fails them. The caller holds
// l.mu.
func (l *Layer) settle(f *flight, err error) {
	if f.settled {
		return
	}
	f.settled = true
	if err != nil {
		l.land(f, err)
		return
	}
	f.ready = int64(len(f.buf))
	l.serve(f)
}

// land takes a flight out of the map: from here on, readers look at the disk or
// ask again. err is for those who still wait: of a decoded span, Fill and Prefetch
// alone. The caller holds l.mu.
func (l *Layer) land(f *flight, err error) {
	f.settled = true
	if l.flights[f.span] == f {
		delete(l.flights, f.span)
	}
	if f.job == nil && f.req != nil {
		f.req.waiting -= len(f.waits)
	}
	for _, w := range f.waits {
		switch {
		case err == nil:
			w.r.served()
		case w.r.class != demand && hopeless(err):
			w.r.err = cmp.Or(w.r.err, error(&Error{Layer: l.key, Span: f.span, Err: err}))
			w.r.served()
		default:
			w.r.end(&Error{Layer: l.key, Span: f.span, Err: err})
		}
	}
	f.waits = nil
}

// hopeless reports whether err is about one span alone, and others may be good.
func hopeless(err error) bool {
	var format *ztoc.FormatError
	return errors.Is(err, ztoc.ErrDigest) || errors.As(err, &format)
}

// quit takes r out of the flights it still waits for. A request nobody waits for
// is cancelled, and its flights are left to nobody. The caller holds l.mu.
func (l *Layer) quit(r *read) {
	r.ended = true
	for _, f := range r.pending {
		n := len(f.waits)
		f.waits = slices.DeleteFunc(f.waits, func(w wait) bool { return w.r == r })
		if n == len(f.waits) || f.job != nil || f.req == nil {
			continue // what is decoded is paid for, and kept
		}
		f.req.waiting -= n - len(f.waits)
		if f.req.waiting == 0 && !f.req.kept {
			l.abandon(f.req)
		}
	}
	r.pending = nil
}

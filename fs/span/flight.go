// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
)

// flight is one span on its way to its readers. Guarded by Layer.mu.
type flight struct {
	span    int
	req     *request
	waits   []wait
	buf     []byte // the span's bytes, from settle until the flight leaves Layer.flights
	settled bool   // the waits were served, or failed
}

// wait is one read's wish for a piece of a span on its way.
type wait struct {
	r  *read
	pc piece
}

// request is the fetch of adjacent spans, or the check of recorded ones. Guarded
// by Layer.mu.
type request struct {
	recorded bool
	flights  []*flight // in span order
	waiting  int       // waits of flights that are not settled
	cancel   context.CancelFunc
}

// read is one ReadAt that waits. Guarded by Layer.mu, but for done.
type read struct {
	pending []*flight // joined
	left    int       // of them not settled
	err     error
	ended   bool          // done is closed
	done    chan struct{} // closed when left is zero or err is set
}

// end wakes the reader.
func (r *read) end(err error) {
	if !r.ended {
		r.err, r.ended = err, true
		close(r.done)
	}
}

// readFlights fills the pieces that are on their way or have to be fetched, and
// returns those that are on disk.
func (l *Layer) readFlights(ctx context.Context, pcs []piece) (local []piece, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r := &read{done: make(chan struct{})}
	local, err = l.join(ctx, r, pcs)
	if err != nil || r.pending == nil {
		return local, err
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		l.quit(r)
		return nil, ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.quit(r) // after an error, the rest may still be on its way
	return local, r.err
}

// join enters r's wishes into the flights there are and starts requests for the
// spans nobody has asked for yet.
func (l *Layer) join(ctx context.Context, r *read, pcs []piece) (local []piece, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return nil, &Error{Layer: l.key, Span: pcs[0].span, Err: ErrClosed}
	}
	var fresh []*flight
	for _, pc := range pcs {
		f := l.flights[pc.span]
		switch {
		case f != nil && f.settled:
			copy(pc.p, f.buf[pc.from:])
			continue
		case f == nil && l.spans[pc.span].Load() == present:
			local = append(local, pc)
			continue
		case f == nil:
			f = &flight{span: pc.span}
			l.flights[pc.span] = f
			fresh = append(fresh, f)
		default:
			f.req.waiting++
		}
		f.waits = append(f.waits, wait{r, pc})
		r.pending = append(r.pending, f)
		r.left++
	}
	l.launch(ctx, fresh)
	return local, nil
}

// launch starts one request per run of adjacent spans of the same state.
func (l *Layer) launch(ctx context.Context, fresh []*flight) {
	for len(fresh) > 0 {
		rec := l.spans[fresh[0].span].Load() == recorded
		n := 1
		for n < len(fresh) && (l.spans[fresh[n].span].Load() == recorded) == rec && l.adjacent(fresh[:n+1]) {
			n++
		}
		// The request outlives the reader that started it while others wait.
		rctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		req := &request{recorded: rec, flights: fresh[:n:n], waiting: n, cancel: cancel}
		for _, f := range req.flights {
			f.req = req
		}
		fresh = fresh[n:]
		l.refs.Add(1) // the reader holds a reference, so this cannot be the first
		go l.run(rctx, req)
	}
}

// adjacent reports whether the last of fs can share one range request with the rest.
func (l *Layer) adjacent(fs []*flight) bool {
	n := len(fs)
	first, prev, next := l.zi.Spans[fs[0].span].In, l.zi.Spans[fs[n-2].span].In, l.zi.Spans[fs[n-1].span].In
	return next.Off >= prev.Off && next.Off <= prev.End() && next.End() >= prev.End() &&
		next.End()-first.Off <= l.store.opts.MaxFetch
}

// settle serves a span's bytes to those who wait for it, or fails them. The
// caller holds l.mu.
func (l *Layer) settle(f *flight, buf []byte, err error) {
	if f.settled {
		return
	}
	f.settled, f.buf = true, buf
	f.req.waiting -= len(f.waits)
	for _, w := range f.waits {
		if err != nil {
			w.r.end(&Error{Layer: l.key, Span: f.span, Err: err})
			continue
		}
		if w.r.ended {
			continue // it has failed elsewhere, and may be gone with its buffer
		}
		copy(w.pc.p, buf[w.pc.from:])
		if w.r.left--; w.r.left == 0 {
			w.r.end(nil)
		}
	}
	f.waits = nil
	if err != nil {
		l.land(f)
	}
}

// land takes a flight out of the map: from here on, readers look at the disk or
// ask again. The caller holds l.mu.
func (l *Layer) land(f *flight) {
	if l.flights[f.span] == f {
		delete(l.flights, f.span)
	}
}

// quit takes r out of the flights it still waits for. A request nobody waits for
// is cancelled, and its flights are left to nobody. The caller holds l.mu.
func (l *Layer) quit(r *read) {
	r.ended = true
	for _, f := range r.pending {
		if f.settled {
			continue
		}
		kept := f.waits[:0]
		for _, w := range f.waits {
			if w.r != r {
				kept = append(kept, w)
			}
		}
		f.req.waiting -= len(f.waits) - len(kept)
		clear(f.waits[len(kept):])
		f.waits = kept
		if f.req.waiting > 0 {
			continue
		}
		for _, g := range f.req.flights {
			if !g.settled {
				l.land(g)
			}
		}
		f.req.cancel()
	}
}

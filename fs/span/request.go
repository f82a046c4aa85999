// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"slices"

	"github.com/seekoci/seekoci/ztoc"
)

const (
	// bridge is how many compressed bytes between two wanted spans are fetched, too,
	// to save a request: what a link of 1 Gbit/s carries in 2 ms. A request costs
	// about 1 ms where the registry is near, and 5 to 50 ms elsewhere.
	bridge = 256 << 10
	// stride is how far a stream may be from a span that a reader wants before a
	// request of its own is worth it.
	stride = 1 << 20
)

// request is the fetch of spans that lie close to one another, or the check of
// recorded ones. Guarded by Layer.mu.
type request struct {
	u       urgency
	flights []*flight // in span order; fixed once started
	base    class     // when no reader waits
	waiting int       // waits of the flights that it is to bring
	kept    bool      // it goes on when nobody waits
	started bool
	pos     int64 // compressed offset that its stream has come to
	cancel  context.CancelFunc
}

// brings reports whether f has nothing but req to wait for.
func (req *request) brings(f *flight) bool { return f.req == req && f.job == nil && !f.settled }

// in returns the compressed range of adjacent flights.
func (l *Layer) in(fs []*flight) ztoc.Range {
	off := l.zi.Spans[fs[0].span].In.Off
	return ztoc.Range{Off: off, Len: l.zi.Spans[fs[len(fs)-1].span].In.End() - off}
}

// near reports whether span b can follow span a in a request whose first span is first.
func (l *Layer) near(first, a, b int) bool {
	from, prev, next := l.zi.Spans[first].In, l.zi.Spans[a].In, l.zi.Spans[b].In
	// Neighbours share a byte where one ends and the other begins in its middle.
	return a < b && next.Off >= prev.End()-1 && next.Off-prev.End() <= bridge && next.End() >= prev.End() &&
		next.End()-from.Off <= l.store.opts.MaxFetch
}

// far reports whether f is on its way, but so far back in a stream that it is
// better fetched by itself. The caller holds l.mu.
func (l *Layer) far(f *flight) bool {
	if f.req == nil || !f.req.brings(f) || f.wanted() {
		return false
	}
	pos := f.req.pos
	if !f.req.started {
		pos = l.in(f.req.flights).Off
	}
	return l.zi.Spans[f.span].In.Off-pos > stride
}

// part takes f out of its request. The caller holds l.mu.
func (l *Layer) part(f *flight) {
	f.req.waiting -= len(f.waits)
	f.req = nil
}

// launch brings flights that have no request on their way. The caller holds l.mu.
func (l *Layer) launch(ctx context.Context, fresh []*flight) {
	slices.SortFunc(fresh, func(a, b *flight) int { return a.span - b.span })
	var old []*flight
	fresh = slices.DeleteFunc(fresh, func(f *flight) bool {
		if l.spans[f.span].Load() != recorded {
			return false
		}
		old = append(old, f)
		return true
	})
	if len(old) > 0 {
		l.spawn(ctx, l.newRequest(old, prefetch), l.check)
	}
	for len(fresh) > 0 {
		n := 1
		for n < len(fresh) && l.near(fresh[0].span, fresh[n-1].span, fresh[n].span) {
			n++
		}
		if fs := fresh[:n:n]; !l.absorb(fs) {
			req := l.newRequest(fs, prefetch)
			l.queued = append(l.queued, req)
			l.spawn(ctx, req, func(ctx context.Context, req *request) { _ = l.fetch(ctx, req) }) // it has told the readers
		}
		fresh = fresh[n:]
	}
}

// newRequest returns the request of flights, of class c unless a reader waits. One
// that nobody waits for is read ahead: it is not given up for that. The caller
// holds l.mu.
func (l *Layer) newRequest(fs []*flight, c class) *request {
	req := &request{flights: fs, base: c}
	req.u.c.Store(uint32(c))
	for _, f := range fs {
		f.req = req
		req.waiting += len(f.waits)
		if f.wanted() {
			req.u.raise(demand)
		}
	}
	req.kept = req.waiting == 0
	return req
}

// absorb adds flights to a request that has not started yet. The caller holds l.mu.
func (l *Layer) absorb(fs []*flight) bool {
	first, last := fs[0].span, fs[len(fs)-1].span
	wanted := slices.ContainsFunc(fs, (*flight).wanted)
	for _, req := range l.queued {
		head, tail := req.flights[0].span, req.flights[len(req.flights)-1].span
		switch {
		case wanted && l.zi.Spans[first].In.Off-l.zi.Spans[head].In.Off > stride,
			req.u.class() == demand && l.zi.Spans[head].In.Off-l.zi.Spans[first].In.Off > stride:
			continue // a reader would wait for what others want
		case l.near(head, tail, first) && l.in(fs).End()-l.zi.Spans[head].In.Off <= l.store.opts.MaxFetch:
			req.flights = append(req.flights, fs...)
		case l.near(first, last, head) && l.zi.Spans[tail].In.End()-l.zi.Spans[first].In.Off <= l.store.opts.MaxFetch:
			req.flights = append(fs, req.flights...)
		default:
			continue
		}
		for _, f := range fs {
			f.req = req
			req.waiting += len(f.waits)
			if f.wanted() && req.u.raise(demand) {
				l.store.look()
			}
		}
		return true
	}
	return false
}

// spawn has a goroutine do the work of a request. The caller holds l.mu, and a
// reference to the layer.
func (l *Layer) spawn(ctx context.Context, req *request, work func(context.Context, *request)) {
	// The request outlives the reader that started it while others wait.
	ctx, req.cancel = context.WithCancel(context.WithoutCancel(ctx))
	l.refs.Add(1)
	l.running[req] = struct{}{}
	go func() {
		defer l.leave()
		defer req.cancel()
		work(ctx, req)
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.running, req)
	}()
}

// fetch streams a request when its turn has come.
func (l *Layer) fetch(ctx context.Context, req *request) error {
	n, err := l.store.slots.acquire(ctx, 1, &req.u)
	if err == nil {
		defer l.store.slots.release(n)
		err = l.stream(ctx, req)
	}
	if err != nil {
		l.fail(ctx, req, err)
	}
	return err
}

// start fixes the flights of a request.
func (l *Layer) start(req *request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	req.started = true
	l.queued = slices.DeleteFunc(l.queued, func(r *request) bool { return r == req })
	req.pos = l.in(req.flights).Off
}

// fail fails the flights that a request has not brought.
func (l *Layer) fail(ctx context.Context, req *request, err error) {
	if ctx.Err() == nil {
		l.stats.fetchErrors.Add(1)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queued = slices.DeleteFunc(l.queued, func(r *request) bool { return r == req })
	for _, f := range req.flights {
		if req.brings(f) {
			l.settle(f, err)
		}
	}
}

// abandon ends a request and leaves its flights to nobody. The caller holds l.mu.
func (l *Layer) abandon(req *request) {
	l.queued = slices.DeleteFunc(l.queued, func(r *request) bool { return r == req })
	for _, f := range req.flights {
		if req.brings(f) {
			l.land(f, nil) // nobody waits for it
		}
	}
	req.cancel()
}

// check reads recorded spans from disk. Those that do not match their CRC32C are
// fetched.
func (l *Layer) check(ctx context.Context, req *request) {
	var bad []*flight
	for _, f := range req.flights {
		ok, err := l.checkOne(ctx, req, f)
		if err != nil {
			l.fail(ctx, req, err)
			return
		}
		if !ok {
			bad = append(bad, f)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	bad = slices.DeleteFunc(bad, func(f *flight) bool { return !req.brings(f) })
	for _, f := range bad {
		l.part(f)
	}
	l.launch(ctx, bad)
}

func (l *Layer) checkOne(ctx context.Context, req *request, f *flight) (ok bool, err error) {
	out := l.zi.Spans[f.span].Out
	n, err := l.store.memory.acquire(ctx, bufferSize(out.Len), &req.u)
	if err != nil {
		return false, err
	}
	defer l.store.memory.release(n)
	buf := l.store.buffers.get(out.Len)
	defer l.store.buffers.put(buf)
	if !l.checkInto(buf, f.span) {
		return false, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if req.brings(f) {
		l.part(f)
	}
	f.buf = buf
	l.settle(f, nil)
	l.land(f, nil)
	f.buf = nil
	return true, nil
}

// checkInto reads a recorded span to buf and notes whether it matches its CRC32C.
func (l *Layer) checkInto(buf []byte, i int) bool {
	l.disk.holes.RLock()
	defer l.disk.holes.RUnlock()
	l.unsynced.add(i) // the kernel may have it, and the disk not
	l.store.room.dirty()
	if l.disk.read(buf, l.zi.Spans[i].Out.Off) != nil || castagnoli(buf) != l.sums[i] {
		l.mark(i, recorded, absent)
		return false
	}
	l.mark(i, recorded, present)
	return true
}

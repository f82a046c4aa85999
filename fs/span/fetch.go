// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// errPanic is the cause when a decoder panicked; the daemon must outlive it.
var errPanic = errors.New("span: internal error")

// run carries out a request and settles all of its flights.
func (l *Layer) run(ctx context.Context, req *request) {
	defer l.leave()
	defer req.cancel()
	todo := req.flights
	if req.recorded {
		todo = l.check(ctx, todo)
	}
	for len(todo) > 0 {
		n := 1
		for n < len(todo) && l.adjacent(todo[:n+1]) {
			n++
		}
		if err := l.fetch(ctx, todo[:n]); err != nil {
			l.fail(ctx, todo[:n], err)
		}
		todo = todo[n:]
	}
}

// fail fails the flights that are not settled yet.
func (l *Layer) fail(ctx context.Context, fs []*flight, err error) {
	if ctx.Err() == nil {
		l.stats.fetchErrors.Add(1)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range fs {
		l.settle(f, nil, err)
	}
}

// check reads recorded spans from disk, settles those that match their CRC32C and
// returns the others.
func (l *Layer) check(ctx context.Context, fs []*flight) (bad []*flight) {
	for i, f := range fs {
		ok, err := l.checkOne(ctx, f)
		if err != nil {
			l.fail(ctx, fs[i:], err)
			return bad
		}
		if !ok {
			l.forget(f.span)
			bad = append(bad, f)
		}
	}
	return bad
}

func (l *Layer) checkOne(ctx context.Context, f *flight) (ok bool, err error) {
	out := l.zi.Spans[f.span].Out
	free, err := l.acquire(ctx, out.Len)
	if err != nil {
		return false, err
	}
	defer free()
	buf := l.store.buffers.get(out.Len)
	defer l.store.buffers.put(buf)
	if l.disk.read(buf, out.Off) != nil || castagnoli(buf) != l.sums[f.span] {
		return false, nil
	}
	l.keep(f.span)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(f, buf, nil)
	l.land(f)
	return true, nil
}

// acquire waits for n bytes of the store's memory, or all of it if that is less.
func (l *Layer) acquire(ctx context.Context, n int64) (free func(), err error) {
	n = min(n, l.store.opts.MaxMemory)
	if err := l.store.memory.Acquire(ctx, n); err != nil {
		return nil, err
	}
	return func() { l.store.memory.Release(n) }, nil
}

// fetch gets the compressed bytes of adjacent spans with one request, and
// delivers each span as soon as it is inflated.
func (l *Layer) fetch(ctx context.Context, fs []*flight) error {
	in := l.zi.Spans[fs[0].span].In
	in.Len = l.zi.Spans[fs[len(fs)-1].span].In.End() - in.Off
	var largest int64
	for _, f := range fs {
		sp := &l.zi.Spans[f.span]
		largest = max(largest, sp.Out.Len+sp.In.Len)
	}
	workers := min(l.store.opts.Decoders, len(fs))
	free, err := l.acquire(ctx, in.Len+int64(workers)*largest)
	if err != nil {
		return err
	}
	defer free()
	buf := l.store.buffers.get(in.Len)
	defer l.store.buffers.put(buf)
	if err := l.request(ctx, buf, in.Off); err != nil {
		return err
	}

	var g errgroup.Group
	g.SetLimit(workers)
	for _, f := range fs {
		sp := &l.zi.Spans[f.span]
		src := buf[sp.In.Off-in.Off:][:sp.In.Len]
		g.Go(func() error {
			if err := l.deliver(ctx, f, src); err != nil {
				l.fail(ctx, []*flight{f}, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// request reads from the source.
func (l *Layer) request(ctx context.Context, p []byte, off int64) (err error) {
	defer contain(&err)
	l.stats.requests.Add(1)
	if err := l.src.ReadAt(ctx, p, off); err != nil {
		return err
	}
	l.stats.bytesFetched.Add(int64(len(p)))
	return nil
}

// deliver turns the compressed bytes src of a span into its bytes, serves them and
// writes them down.
func (l *Layer) deliver(ctx context.Context, f *flight, src []byte) (err error) {
	sp := &l.zi.Spans[f.span]
	// The bytes are paid for: they are kept, even if nobody waits any more.
	if err := l.store.decoders.Acquire(context.WithoutCancel(ctx), 1); err != nil {
		return err
	}
	defer l.store.decoders.Release(1)
	defer contain(&err)
	src, err = l.verify(ctx, f.span, src)
	if err != nil {
		return err
	}
	out := l.store.buffers.get(sp.Out.Len)
	defer func() {
		l.mu.Lock()
		l.land(f)
		l.mu.Unlock()
		l.store.buffers.put(out) // nobody finds it any more
	}()
	if err := l.zi.Decode(out, f.span, src); err != nil {
		return err
	}
	l.stats.fetched.Add(1)

	l.mu.Lock()
	l.settle(f, out, nil)
	l.mu.Unlock()
	// While the bytes are written, f stays in the map and serves from memory.
	if err := l.disk.write(f.span, sp.Out.Off, out); err != nil {
		l.stats.writeErrors.Add(1)
		return nil // whoever waited has the bytes
	}
	l.keep(f.span)
	return nil
}

// contain turns a panic into an error.
func contain(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: %v", errPanic, r)
	}
}

// verify returns bytes that match the span's digest: src, or what the source gives
// when asked again.
func (l *Layer) verify(ctx context.Context, i int, src []byte) ([]byte, error) {
	err := l.zi.Verify(i, src)
	for try := 0; err != nil && try < l.store.opts.Retries; try++ {
		l.stats.fetchErrors.Add(1)
		src = make([]byte, len(src)) // the old bytes are shared with the neighbour span
		if e := l.request(ctx, src, l.zi.Spans[i].In.Off); e != nil {
			return nil, e
		}
		err = l.zi.Verify(i, src)
	}
	return src, err
}

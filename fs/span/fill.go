// SPDX-License-Identifier: Apache-2.0

package span

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/seekoci/seekoci/ztoc"
)

// maxGather bounds how many spans are looked at to make one request.
const maxGather = 4 << 10

// task is work for the layer that Close ends.
type task struct{ cancel context.CancelCauseFunc }

// work returns a context for what is to end with the layer, and what to call
// when it has ended.
func (l *Layer) work(ctx context.Context) (context.Context, func(), error) {
	if !l.enter() {
		return nil, nil, ErrClosed
	}
	ctx, cancel := context.WithCancelCause(ctx)
	t := &task{cancel}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tasks[t] = struct{}{}
	if l.over != nil {
		cancel(l.over)
	}
	return ctx, func() {
		l.mu.Lock()
		delete(l.tasks, t)
		l.mu.Unlock()
		cancel(nil)
		l.leave()
	}, nil
}

// Complete reports whether all of the layer is on disk and checked: nothing will
// be asked of the source any more, unless the disk loses bytes. What an earlier
// run left has to be checked first, which Fill does, and what was written not to have been
// refused by the disk later.
func (l *Layer) Complete() bool { return l.missing.Load() == 0 && l.unsynced.len() == 0 }

// Fill brings what is missing of the layer to disk, in large requests, and checks
// what an earlier run left there. It gives way to readers and to Prefetch: while
// one waits it asks for nothing, nor while anybody reads and Options.Quiet longer,
// though after half a minute of that it does. It returns nil when
// the layer is Complete. A span whose bytes are wrong does not keep it from the
// others; a source or disk that fails ends it. It ends with ctx and with Close.
func (l *Layer) Fill(ctx context.Context) error {
	if err := l.fill(ctx); err != nil {
		return fmt.Errorf("fill %s: %w", l.key, err)
	}
	return nil
}

func (l *Layer) fill(ctx context.Context) error {
	ctx, done, err := l.work(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := l.recheck(ctx); err != nil {
		return err
	}
	for losses, try := l.unsynced.losses.Load(), 0; ; {
		if l.missing.Load() == 0 && l.sync() == nil {
			return nil
		}
		switch {
		case try < diskTries:
		case l.unsynced.losses.Load() != losses:
			return errLost
		default:
			return errors.New("the disk loses spans")
		}
		var ids []int
		for i := range l.spans {
			if l.spans[i].Load() != present {
				ids = append(ids, i)
			}
		}
		switch err := l.bring(ctx, background, ids); {
		case refused(err): // to go on when there is room
		case err != nil:
			return err
		default:
			try++
		}
	}
}

// refused reports whether err says that there was no room for a span.
func refused(err error) bool { return errors.Is(err, ErrUnwritten) && general(err) }

// Prefetch brings the spans of uncompressed ranges to disk, in the order in which
// they will be wanted, in few requests: before Fill, and after what readers wait
// for. It returns nil when all of them are there; errors are those of Fill, and
// ErrRange.
func (l *Layer) Prefetch(ctx context.Context, ranges []ztoc.Range) error {
	if err := l.prefetch(ctx, ranges); err != nil {
		return fmt.Errorf("prefetch %s: %w", l.key, err)
	}
	return nil
}

func (l *Layer) prefetch(ctx context.Context, ranges []ztoc.Range) error {
	ctx, done, err := l.work(ctx)
	if err != nil {
		return err
	}
	defer done()
	var ids []int
	seen := make([]bool, len(l.spans))
	for _, r := range ranges {
		if r.Off < 0 || r.Len < 0 || r.Len > l.zi.UncompressedSize-r.Off {
			return fmt.Errorf("[%d,+%d): %w", r.Off, r.Len, ErrRange)
		}
		if r.Len == 0 {
			continue
		}
		for i, end := l.zi.SpansOf(r); i < end; i++ {
			if !seen[i] {
				seen[i] = true
				l.listed.set(i)
				ids = append(ids, i)
			}
		}
	}
	l.store.calm.note() // who is told what will be wanted expects somebody who reads
	defer l.store.calm.note()
	for range diskTries {
		if err = l.bring(ctx, prefetch, slices.Clone(ids)); !refused(err) {
			break
		}
	}
	return err
}

// recheck reads what an earlier run left on disk.
func (l *Layer) recheck(ctx context.Context) error {
	u := &l.filling
	for i := range l.spans {
		if l.spans[i].Load() != recorded {
			continue
		}
		if err := l.store.calm.wait(ctx, u); err != nil {
			return context.Cause(ctx)
		}
		l.store.decoders.spare.wait(ctx.Done(), u.hasty.Load)
		out := l.zi.Spans[i].Out
		n, err := l.store.memory.acquire(ctx, bufferSize(out.Len), u)
		if err != nil {
			return context.Cause(ctx)
		}
		buf := l.store.buffers.get(out.Len)
		l.checkInto(buf, i)
		l.store.buffers.put(buf)
		l.store.memory.release(n)
	}
	return nil
}

// bring brings spans to disk, one request after the other, each as large as it can
// be; their decoding overlaps.
func (l *Layer) bring(ctx context.Context, c class, ids []int) error {
	r := newRead(c)
	r.left = 1 // until all are asked for
	u := &l.filling
	if c != background {
		u = new(urgency)
		u.c.Store(uint32(c))
	}
	for {
		l.mu.Lock()
		ids = l.sift(r, ids)
		if len(ids) == 0 || r.ended {
			r.served()
			l.mu.Unlock()
			break
		}
		l.mu.Unlock()
		err := l.store.room.wait(ctx, u)
		var n int64
		if err == nil {
			n, err = l.turn(ctx, u)
		}
		if err != nil {
			l.mu.Lock()
			l.quit(r)
			l.mu.Unlock()
			return cmp.Or(context.Cause(ctx), err)
		}
		l.mu.Lock()
		ids = l.request(ctx, r, ids, n, u.class())
		l.mu.Unlock()
	}
	if err := l.await(ctx, r); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	return nil
}

// turn waits until a request of u's class may be made, and returns its slot.
func (l *Layer) turn(ctx context.Context, u *urgency) (int64, error) {
	if err := l.store.calm.wait(ctx, u); err != nil {
		return 0, err
	}
	return l.store.slots.acquire(ctx, 1, u)
}

// sift returns ids from the first on that nobody has asked for, and has r wait for
// those before that are on their way. The caller holds l.mu.
func (l *Layer) sift(r *read, ids []int) []int {
	r.pending = slices.DeleteFunc(r.pending, func(f *flight) bool { return f.settled && f.waits == nil })
	for len(ids) > 0 {
		i := ids[0]
		if f := l.flights[i]; f != nil {
			l.hope(f, wait{r, piece{span: i}})
		} else if l.spans[i].Load() == absent {
			break
		}
		ids = ids[1:]
	}
	return ids
}

// request starts the request of class c that brings ids[0] and as many others as lie close,
// and returns the rest of ids. It gives the slot back. The caller holds l.mu.
func (l *Layer) request(ctx context.Context, r *read, ids []int, slot int64, c class) []int {
	near := l.gather(ids)
	if len(near) == 0 {
		l.store.slots.release(slot)
		return ids
	}
	var fs []*flight
	for k, i := range near {
		if k > 0 {
			fs = l.absent(fs, spans{near[k-1] + 1, i}) // bytes that come along anyway
		}
		f := l.begin(i)
		l.hope(f, wait{r, piece{span: i}})
		fs = append(fs, f)
	}
	l.spawn(ctx, l.newRequest(fs, c), func(ctx context.Context, req *request) {
		defer l.store.slots.release(slot)
		if err := l.stream(ctx, req); err != nil {
			l.fail(ctx, req, err)
		}
	})
	return slices.DeleteFunc(ids, func(i int) bool {
		_, ok := slices.BinarySearch(near, i)
		return ok
	})
}

// gather returns, in order, the first of ids that nobody has asked for, and those
// of the next ones that can share a request with it. The caller holds l.mu.
func (l *Layer) gather(ids []int) []int {
	var some []int
	var size int64
	for _, i := range ids {
		if l.flights[i] != nil || l.spans[i].Load() != absent {
			continue
		}
		some = append(some, i)
		if size += l.zi.Spans[i].In.Len; size >= 2*l.store.opts.MaxFetch || len(some) == maxGather {
			break
		}
	}
	if len(some) == 0 {
		return nil
	}
	first := some[0]
	slices.Sort(some)
	lo, _ := slices.BinarySearch(some, first)
	hi := lo
	for hi+1 < len(some) && l.near(some[lo], some[hi], some[hi+1]) {
		hi++
	}
	for lo > 0 && l.near(some[lo-1], some[lo-1], some[lo]) &&
		l.zi.Spans[some[hi]].In.End()-l.zi.Spans[some[lo-1]].In.Off <= l.store.opts.MaxFetch {
		lo--
	}
	return some[lo : hi+1]
}

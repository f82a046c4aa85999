// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
)

// errNoRoom is what somebody is told who would wait for room on disk, and does not want to.
var errNoRoom = fmt.Errorf("%w: no room on disk", ErrUnwritten)

// Hurry has Fill, Sum and FillSum come before all else that no reader waits for, as somebody waits for the
// whole layer, until Relax. They do not wait for room on disk then: where there is none they return an error
// that matches ErrUnwritten, and SumThrough may be what helps.
func (l *Layer) Hurry() {
	l.filling.hasty.Store(true)
	l.filling.raise(prefetch)
	l.mu.Lock()
	for req := range l.running {
		req.base = min(req.base, prefetch)
		req.u.raise(prefetch)
	}
	l.mu.Unlock()
	l.store.look()
}

// Relax ends what Hurry began.
func (l *Layer) Relax() {
	l.filling.hasty.Store(false)
	l.filling.c.Store(uint32(background))
}

// SumThrough is FillSum without the disk: nothing is read from there, and nothing written. The whole layer is
// fetched, and each span verified and forgotten. The bytes of the tar are written to w besides, whose error
// ends it.
func (l *Layer) SumThrough(ctx context.Context, w io.Writer) (sum [sha256.Size]byte, err error) {
	sum, err = l.sumThrough(ctx, w)
	if err != nil {
		return sum, fmt.Errorf("digest %s as it comes: %w", l.key, err)
	}
	return sum, nil
}

func (l *Layer) sumThrough(ctx context.Context, w io.Writer) (sum [sha256.Size]byte, err error) {
	ctx, done, err := l.work(ctx)
	if err != nil {
		return sum, err
	}
	defer done()
	h := sha256.New()
	for first := 0; err == nil && first < len(l.zi.Spans); {
		end := first + 1
		for end < len(l.zi.Spans) && l.near(first, end-1, end) {
			end++
		}
		err = l.pass(ctx, first, end, io.MultiWriter(h, w))
		first = end
	}
	if err == nil {
		err = l.sumTail(ctx, h)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return [sha256.Size]byte(h.Sum(nil)), err
}

// pass fetches the spans from first up to end, which are near, and writes their bytes to w.
func (l *Layer) pass(ctx context.Context, first, end int, w io.Writer) (err error) {
	defer contain(&err)
	var u urgency
	u.c.Store(uint32(prefetch))
	slot, err := l.turn(ctx, &u)
	if err != nil {
		return err
	}
	defer l.store.slots.release(slot)
	off := l.zi.Spans[first].In.Off
	r, err := l.src.Open(ctx, off, l.zi.Spans[end-1].In.End()-off)
	if err != nil {
		return err
	}
	defer r.Close()
	l.stats.requests.Add(1)
	b := &body{r: &meter{r, &l.stats.bytesFetched}, pos: off}
	for i := first; i < end; i++ {
		if err := l.passOne(ctx, i, b, &u, w); err != nil {
			return err
		}
	}
	return nil
}

// passOne writes the bytes of span i, which comes next in b, to w, as far as they are of the tar.
func (l *Layer) passOne(ctx context.Context, i int, b *body, u *urgency, w io.Writer) error {
	sp := &l.zi.Spans[i]
	n := min(sp.Out.Len, l.zi.UncompressedSize-sp.Out.Off)
	if n <= 0 {
		return nil // it is of what sumTail adds
	}
	held, err := l.store.memory.acquire(ctx, bufferSize(sp.In.Len)+bufferSize(sp.Out.Len), u)
	if err != nil {
		return err
	}
	defer l.store.memory.release(held)
	src := l.store.buffers.get(sp.In.Len)
	defer l.store.buffers.put(src)
	if err := b.skip(sp.In.Off); err != nil {
		return err
	}
	if err := b.read(src, sp.In.Off); err != nil {
		return err
	}
	if err := l.zi.Verify(i, src); err != nil {
		l.distrust(i)
		return err
	}
	dst := l.store.buffers.get(sp.Out.Len)
	defer l.store.buffers.put(dst)
	if err := l.zi.Decode(dst, i, src); err != nil {
		return err
	}
	_, err = w.Write(dst[:n])
	return err
}

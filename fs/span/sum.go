// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
)

// ErrIncomplete is returned by Sum for a layer that is not Complete.
var ErrIncomplete = errors.New("not complete")

// sumPiece is how much is read at a time.
const sumPiece = 1 << 20

// Sum returns the SHA-256 of all uncompressed bytes of the layer, which is what its
// diffID says. The layer must be Complete; the bytes come from disk, except for
// those behind the tar's end, zeros as a rule, which are nowhere on disk: the spans
// that hold them, in most layers the last one, are fetched once more.
func (l *Layer) Sum(ctx context.Context) ([sha256.Size]byte, error) {
	sum, err := l.sum(ctx)
	if err != nil {
		return sum, fmt.Errorf("digest %s: %w", l.key, err)
	}
	return sum, nil
}

func (l *Layer) sum(ctx context.Context) (sum [sha256.Size]byte, err error) {
	ctx, done, err := l.work(ctx)
	if err != nil {
		return sum, err
	}
	defer done()
	if !l.Complete() {
		return sum, ErrIncomplete
	}
	h := sha256.New()
	buf := l.store.buffers.get(sumPiece)
	defer l.store.buffers.put(buf)
	for off := int64(0); off < l.zi.UncompressedSize; {
		l.store.calm.spare.wait(ctx.Done(), func() bool { return false })
		if ctx.Err() != nil {
			return sum, context.Cause(ctx)
		}
		p := buf[:min(sumPiece, l.zi.UncompressedSize-off)]
		if err := l.disk.read(p, off); err != nil {
			return sum, err
		}
		h.Write(p)
		off += int64(len(p))
	}
	if err := l.sumTail(ctx, h); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return sum, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// sumTail adds what is behind the tar's end.
func (l *Layer) sumTail(ctx context.Context, h hash.Hash) (err error) {
	defer contain(&err)
	first := l.zi.TailSpan()
	in := l.zi.Spans[first].In
	in.Len = l.zi.CompressedSize - in.Off
	if in.Len > maxSpan {
		return fmt.Errorf("%d bytes behind the tar: %w", in.Len, ErrSpans)
	}
	var u urgency
	u.c.Store(uint32(background))
	slot, err := l.turn(ctx, &u)
	if err != nil {
		return err
	}
	defer l.store.slots.release(slot)
	held, err := l.store.memory.acquire(ctx, bufferSize(in.Len), &u)
	if err != nil {
		return err
	}
	defer l.store.memory.release(held)
	buf := l.store.buffers.get(in.Len)
	defer l.store.buffers.put(buf)
	r, err := l.src.Open(ctx, in.Off, in.Len)
	if err != nil {
		return err
	}
	defer r.Close()
	l.stats.requests.Add(1)
	b := &body{r: r, pos: in.Off}
	err = b.read(buf, in.Off)
	l.stats.bytesFetched.Add(b.pos - in.Off)
	if err != nil {
		return err
	}
	for i := first; i < len(l.zi.Spans); i++ {
		sp := l.zi.Spans[i].In
		if sp.Off < in.Off || sp.End() > in.End() {
			return fmt.Errorf("span %d: %w", i, ErrSpans)
		}
		if err := l.zi.Verify(i, buf[sp.Off-in.Off:][:sp.Len]); err != nil {
			return err
		}
	}
	return l.zi.WriteTail(&tailWriter{ctx, h}, buf)
}

// tailWriter ends with its context.
type tailWriter struct {
	ctx context.Context
	h   hash.Hash
}

func (w *tailWriter) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.h.Write(p)
}

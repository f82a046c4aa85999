// SPDX-License-Identifier: Apache-2.0

package span

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"sync"
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
	losses := l.unsynced.losses.Load()
	if l.sync() != nil || l.missing.Load() != 0 {
		return sum, ErrIncomplete
	}
	if sum, err = l.digest(ctx, nil); err == nil && (l.sync() != nil || l.unsynced.losses.Load() != losses) {
		err = ErrIncomplete // it may be of what the disk lost
	}
	return sum, err
}

// FillSum is Fill and then Sum, but what is there is digested while the rest comes.
func (l *Layer) FillSum(ctx context.Context) (sum [sha256.Size]byte, err error) {
	for range diskTries {
		losses := l.unsynced.losses.Load()
		if sum, err = l.fillSum(ctx); err == nil {
			err = l.sync()
		}
		if errors.Is(err, errLost) || l.unsynced.losses.Load() == losses {
			return sum, err
		}
		// The digest may be of what the disk lost.
	}
	return sum, fmt.Errorf("fill %s: %w", l.key, errLost)
}

func (l *Layer) fillSum(ctx context.Context) (sum [sha256.Size]byte, err error) {
	ctx, done, err := l.work(ctx)
	if err != nil {
		return sum, fmt.Errorf("fill %s: %w", l.key, err)
	}
	defer done()
	filled := make(chan struct{})
	var failed error
	go func() {
		defer close(filled)
		failed = l.Fill(ctx)
	}()
	sum, err = l.digest(ctx, filled)
	<-filled
	if failed != nil {
		return sum, failed
	}
	if err != nil {
		return sum, fmt.Errorf("digest %s: %w", l.key, err)
	}
	return sum, nil
}

// digest returns the digest of all bytes, for which it waits until filled is closed.
func (l *Layer) digest(ctx context.Context, filled <-chan struct{}) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	buf := l.store.buffers.get(sumPiece)
	defer l.store.buffers.put(buf)
	for off := int64(0); off < l.zi.UncompressedSize; {
		p := buf[:min(sumPiece, l.zi.UncompressedSize-off)]
		if filled != nil && !l.arrived(ctx, off, int64(len(p)), filled) {
			return sum, cmp.Or(context.Cause(ctx), ErrIncomplete)
		}
		l.store.decoders.spare.wait(ctx.Done(), l.filling.hasty.Load)
		if ctx.Err() != nil {
			return sum, context.Cause(ctx)
		}
		ok, err := l.readLocal(p, off, l.zi.SpanAt(off), l.zi.SpanAt(off+int64(len(p))-1))
		if err != nil {
			return sum, err
		}
		if !ok && filled == nil {
			return sum, ErrIncomplete // it was evicted meanwhile
		}
		if !ok {
			continue
		}
		h.Write(p)
		off += int64(len(p))
	}
	if filled != nil {
		<-filled // its end is a request of its own
	}
	if err := l.sumTail(ctx, h); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return sum, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// arrived waits until the n bytes at off are on disk, and reports whether they are.
func (l *Layer) arrived(ctx context.Context, off, n int64, filled <-chan struct{}) bool {
	first, last := l.zi.SpanAt(off), l.zi.SpanAt(off+n-1)
	for ended := false; ; {
		more := l.grown.next()
		if l.present(first, last) {
			return true
		}
		if ended {
			return false
		}
		select {
		case <-more:
		case <-filled:
			ended = true
		case <-ctx.Done():
			return false
		}
	}
}

// ReadArriving is ReadLocal that waits for bytes which are not there yet, until filled is closed or ctx ends: for
// those who look at a layer while FillSum, or another, brings it.
func (l *Layer) ReadArriving(ctx context.Context, p []byte, off int64, filled <-chan struct{}) error {
	err := l.ReadLocal(p, off)
	if !errors.Is(err, ErrIncomplete) {
		return err
	}
	ctx, done, err := l.work(ctx)
	if err == nil {
		defer done()
		if l.arrived(ctx, off, int64(len(p)), filled) {
			return l.ReadLocal(p, off)
		}
		err = cmp.Or(context.Cause(ctx), ErrIncomplete)
	}
	return fmt.Errorf("read [%d,+%d) of %s: %w", off, len(p), l.key, err)
}

// grown tells that there are more spans on disk. The zero grown is ready to use.
type grown struct {
	mu   sync.Mutex
	more chan struct{} // closed by the next tell; nil if nobody waits; guarded by mu
}

// next returns a channel that is closed when there is one more.
func (g *grown) next() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.more == nil {
		g.more = make(chan struct{})
	}
	return g.more
}

func (g *grown) tell() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.more != nil {
		close(g.more)
		g.more = nil
	}
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
	u := &l.filling
	slot, err := l.turn(ctx, u)
	if err != nil {
		return err
	}
	defer l.store.slots.release(slot)
	held, err := l.store.memory.acquire(ctx, bufferSize(in.Len), u)
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
	b := &body{r: &meter{r, &l.stats.bytesFetched}, pos: in.Off}
	if err := b.read(buf, in.Off); err != nil {
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

// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"
)

// errPanic is the cause when a source or decoder panicked; the daemon must outlive it.
var errPanic = errors.New("span: internal error")

// contain turns a panic into an error.
func contain(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: %v", errPanic, r)
	}
}

// meter counts the bytes that come in as they do: a stream may take minutes.
type meter struct {
	r io.Reader
	n *atomic.Int64
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.n.Add(int64(n))
	return n, err
}

// body is the compressed bytes of a request, as they come in.
type body struct {
	r    io.Reader
	pos  int64 // of the next byte in the layer
	end  int64 // behind the last byte
	last byte  // the one before pos, if that has been read
}

// skip drops the bytes before off.
func (b *body) skip(off int64) error {
	if off <= b.pos {
		return nil
	}
	n, err := io.CopyN(io.Discard, b.r, off-b.pos)
	b.pos += n
	return noEOF(err)
}

// read fills p with the bytes at off, of which the first may have been read already.
func (b *body) read(p []byte, off int64) error {
	if len(p) > 0 && off == b.pos-1 {
		p[0] = b.last
		p = p[1:]
	}
	n, err := io.ReadFull(b.r, p)
	b.pos += int64(n)
	if n > 0 {
		b.last = p[n-1]
	}
	return noEOF(err)
}

// noEOF makes an error of an end that must not be there.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// stream gets the bytes of a request and hands each span to the decoders as soon
// as its bytes are there. The caller has a slot.
func (l *Layer) stream(ctx context.Context, req *request) (err error) {
	defer contain(&err)
	l.start(req)
	in := l.in(req.flights)
	l.stats.requests.Add(1)
	asked := time.Now()
	r, err := l.src.Open(ctx, in.Off, in.Len)
	if err != nil {
		return err
	}
	defer r.Close()
	l.latency.note(time.Since(asked))
	b := &body{r: &meter{r, &l.stats.bytesFetched}, pos: in.Off, end: in.End()}
	for i, f := range req.flights {
		if !l.brings(req, f) {
			continue // it came elsewhere
		}
		if err := l.take(ctx, req, i, b); err != nil {
			return err
		}
	}
	if b.end-b.pos <= bridge {
		_ = b.skip(b.end) // a connection read to its end serves again
	}
	return nil
}

func (l *Layer) brings(req *request, f *flight) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return req.brings(f)
}

// take reads the bytes of flight i of a request and hands them on.
func (l *Layer) take(ctx context.Context, req *request, i int, b *body) error {
	if err := l.store.calm.wait(ctx, &req.u); err != nil {
		return err
	}
	f := req.flights[i]
	sp := &l.zi.Spans[f.span]
	held, err := l.store.memory.acquire(ctx, bufferSize(sp.In.Len)+bufferSize(sp.Out.Len), &req.u)
	if err != nil {
		return err
	}
	j := &job{l: l, f: f, held: held, src: l.store.buffers.get(sp.In.Len)}
	j.again = func() { l.launch(ctx, []*flight{f}) }
	l.refs.Add(1) // until free
	claimed := false
	defer func() { // when the source panics, too
		if !claimed {
			j.free()
		}
	}()
	if err = b.skip(sp.In.Off); err == nil {
		err = b.read(j.src, sp.In.Off)
	}
	if err == nil {
		claimed = l.claim(req, j, b.pos, req.flights[i+1:])
	}
	return err
}

// claim makes j the job of its flight and has it decoded, unless the flight's bytes
// have come elsewhere. A request is as urgent as the rest of it.
func (l *Layer) claim(req *request, j *job, pos int64, rest []*flight) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	req.pos = pos
	f := j.f
	if !req.brings(f) {
		return false
	}
	req.waiting -= len(f.waits)
	f.job = j
	c := max(req.u.class(), prefetch)
	if f.wanted() {
		c = demand
		if !slices.ContainsFunc(rest, func(g *flight) bool { return req.brings(g) && g.wanted() }) {
			req.u.c.Store(uint32(req.base))
		}
	}
	l.store.decoders.push(j, c)
	return true
}

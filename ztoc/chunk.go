// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"context"
	"fmt"
	"io"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

const (
	chunkSize = 256 << 10 // of compressed bytes: twice as much took more time, in new memory
	chunks    = 12        // of a pass: one being read, one inflated, some on their way to the digests
	headroom  = inflate.MinInput
	maxIdle   = 100 // reads without a byte or an error
)

// chunk is a run of the layer's compressed bytes. There is headroom in front of it
// for what the chunk before could not give alone.
type chunk struct {
	buf []byte // of chunkBytes; nil until it is used
	n   int    // bytes in buf, behind headroom
	off int64  // compressed offset of the first of them
	err error  // what follows: nil, io.EOF or a *readError
}

// bytes returns the bytes read.
func (c *chunk) bytes() []byte { return c.buf[headroom:][:c.n] }

// readError is a failing read of the layer, or the end of the context.
type readError struct {
	off int64
	err error
}

func (e *readError) Error() string { return fmt.Sprintf("read layer at offset %d: %v", e.off, e.err) }

func (e *readError) Unwrap() error { return e.err }

// read is the first stage: it cuts what r delivers into chunks. It ends with the
// first error of r, which travels in the last chunk.
func (p *pass) read(ctx context.Context, r io.Reader) {
	for err := error(nil); err == nil; {
		c, ok := p.freeChunks.get(ctx)
		if !ok {
			return
		}
		if c.buf == nil {
			c.buf = p.memory.chunk()
		}
		c.off = p.off
		c.n, err = fill(ctx, r, c.buf[headroom:])
		if p.off += int64(c.n); p.off > MaxLayerSize {
			err = fmt.Errorf("more than %d bytes: %w", int64(MaxLayerSize), ErrLimit)
		}
		if err != nil && err != io.EOF {
			err = &readError{p.off, err}
		}
		c.err = err
		if !send(ctx, p.chunks, c) {
			return
		}
	}
}

// fill reads from r until p is full or r fails.
func fill(ctx context.Context, r io.Reader, p []byte) (n int, err error) {
	for idle := 0; n < len(p) && err == nil; {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		var k int
		if k, err = r.Read(p[n:]); k > 0 {
			n += k
			idle = 0
		} else if idle++; idle == maxIdle && err == nil {
			err = io.ErrNoProgress
		}
	}
	return n, err
}

// input is the compressed bytes as the second stage consumes them.
type input struct {
	p     *pass
	ctx   context.Context //nolint:containedctx // of the one stage that has this input
	cur   *chunk          // nil before the first
	src   []byte          // of cur, from in on not consumed yet
	in    int
	base  int64 // compressed offset of src[0]
	done  func(*chunk)
	stash [headroom]byte
}

// pos is the compressed offset of the next byte.
func (s *input) pos() int64 { return s.base + int64(s.in) }

// last says that no input follows src.
func (s *input) last() bool { return s.cur != nil && s.cur.err == io.EOF }

// more gets the next chunk, behind what is left of this one, at most headroom
// bytes. It returns the error that ends the layer where there is none.
func (s *input) more() error {
	var left []byte
	if s.cur != nil {
		if s.cur.err != nil {
			return s.cur.err
		}
		left = s.stash[:copy(s.stash[:], s.src[s.in:])]
		s.done(s.cur)
	}
	s.cur = nil
	c, ok := receive(s.ctx, s.p.chunks)
	if !ok {
		s.src, s.in = nil, 0
		return s.ctx.Err()
	}
	start := headroom - copy(c.buf[headroom-len(left):], left)
	s.cur, s.src, s.in, s.base = c, c.buf[start:headroom+c.n], 0, c.off-int64(len(left))
	return nil
}

// ReadByte consumes a byte.
func (s *input) ReadByte() (byte, error) {
	for s.in == len(s.src) {
		if err := s.more(); err != nil {
			return 0, err
		}
	}
	b := s.src[s.in]
	s.in++
	return b, nil
}

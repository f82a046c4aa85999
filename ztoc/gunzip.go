// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
)

// GzipReader inflates a gzip layer from its begin: reading and inflating go on while
// its user works, some MiB ahead. It holds all members against their checksums and
// takes nothing but members. It is not for concurrent use.
type GzipReader struct {
	p      *pass
	ctx    context.Context //nolint:containedctx // of the goroutines
	cancel context.CancelFunc
	stages stages
	member walker // checks members

	w    *work // whose data are being read
	rest []byte
	err  error // the first one, io.EOF included
}

// NewGzipReader returns a reader of what r has compressed, which ends with ctx. Close
// it; r is not closed.
func NewGzipReader(ctx context.Context, r io.Reader) *GzipReader {
	ctx, cancel := context.WithCancel(ctx)
	g := &GzipReader{ctx: ctx, cancel: cancel}
	g.p = newPass(passOptions{compression: Gzip})
	g.member.p = g.p
	g.stages.start(cancel, func() { g.p.read(ctx, r) })
	g.stages.start(cancel, func() { newUnpacker(ctx, g.p).run() })
	return g
}

// Read returns bytes of the layer. What it has returned is right only when io.EOF
// came: checksums lie behind the data. An error of the layer's reader comes back
// wrapped; one of the layer matches ErrFormat.
func (g *GzipReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := g.fill(); err != nil {
		return 0, err
	}
	n := copy(p, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

// WriteTo writes all that is left of the layer to w.
func (g *GzipReader) WriteTo(w io.Writer) (n int64, err error) {
	for {
		if err := g.fill(); err == io.EOF {
			return n, nil
		} else if err != nil {
			return n, err
		}
		k, err := w.Write(g.rest)
		n += int64(k)
		if err != nil {
			return n, err
		}
		g.rest = nil
	}
}

// fill makes rest non-empty.
func (g *GzipReader) fill() error {
	for len(g.rest) == 0 && g.err == nil {
		if w := g.w; w != nil {
			if g.err = w.err; g.err != nil {
				break
			}
			g.w = nil
			g.free(w)
		}
		w, ok := receive(g.ctx, g.p.works)
		if !ok {
			g.err = cmp.Or(g.panicked(), g.ctx.Err())
			break
		}
		g.w, g.member.out = w, w.off+int64(len(w.data))
		if g.err = g.member.checkMembers(w); g.err == nil {
			g.rest = w.data
		}
	}
	if len(g.rest) > 0 {
		return nil
	}
	if g.err == io.EOF {
		return io.EOF
	}
	return fmt.Errorf("inflate layer: %w", g.err)
}

// free gives a piece back, and the chunks it has.
func (g *GzipReader) free(w *work) {
	for _, c := range w.chunks {
		g.p.freeChunks.put(c)
	}
	w.chunks = nil
	g.p.freeWorks.put(w)
}

// Close ends reading ahead. It waits for a read of the layer's reader that is under way.
func (g *GzipReader) Close() error {
	g.cancel()
	g.stages.wg.Wait()
	if g.p.memory.slab != nil {
		g.p.memory.free()
	}
	g.w, g.rest, g.err = nil, nil, errors.New("reader is closed")
	return g.panicked()
}

// panicked returns the panic of a stage as an error: a layer must not end the program.
func (g *GzipReader) panicked() error {
	if p := g.stages.panicked(); p != nil {
		return fmt.Errorf("ztoc: internal error: %v", p)
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// progress shows a bar for each blob that is worked on, if standard error is
// a terminal. Lines for standard output wait until the bars are gone, if that
// is a terminal as well. Its methods are safe for concurrent use.
type progress struct {
	out  io.Writer
	pool *mpb.Progress // nil: no bars
	held bool          // lines wait

	mu    sync.Mutex          // guards what follows
	bars  map[string]*mpb.Bar // by name
	lines bytes.Buffer
}

func (e *env) progress(ctx context.Context) *progress {
	p := &progress{out: e.out}
	if isTerminal(e.err) {
		p.pool = mpb.NewWithContext(ctx, mpb.WithOutput(e.err), mpb.WithWidth(60))
		p.bars = make(map[string]*mpb.Bar)
		p.held = isTerminal(e.out.w)
	}
	return p
}

// isTerminal reports whether w writes to a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// add says that n more bytes of desc are done.
func (p *progress) add(desc ocispec.Descriptor, n int64) {
	p.step(shortDigest(desc.Digest), desc.Size, n)
}

// step says that n more of total bytes of what has this name are done.
func (p *progress) step(name string, total, n int64) {
	if p.pool == nil {
		return
	}
	p.mu.Lock()
	bar := p.bars[name]
	if bar == nil {
		bar = p.pool.AddBar(total,
			mpb.PrependDecorators(decor.Name(name+" "), decor.CountersKibiByte("% .1f / % .1f")),
			mpb.AppendDecorators(decor.Percentage()))
		p.bars[name] = bar
	}
	p.mu.Unlock()
	bar.IncrInt64(n)
}

// println writes a line to standard output.
func (p *progress) println(a ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held {
		fmt.Fprintln(&p.lines, a...)
		return
	}
	fmt.Fprintln(p.out, a...)
}

// done takes the bars away and writes the lines that waited.
func (p *progress) done() {
	if p.pool == nil {
		return
	}
	p.mu.Lock()
	for _, bar := range p.bars {
		bar.Abort(false) // no effect on a bar that is complete
	}
	p.held = false
	p.mu.Unlock()
	p.pool.Wait()
	p.lines.WriteTo(p.out) //nolint:errcheck // out notes it
}

// shortDigest is a digest as people quote it.
func shortDigest(d digest.Digest) string {
	return fmt.Sprintf("%.12s", d.Encoded())
}

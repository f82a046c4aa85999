// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/seekoci/seekoci/ztoc"
)

// valve is a source's gate that lets bytes up to an offset through.
type valve struct {
	at      int64         // offset behind which to wait
	open    chan struct{} // closed to let everything through
	blocked chan struct{} // has one element for each read that has been held up
}

func newValve(at int64) *valve {
	return &valve{at, make(chan struct{}), make(chan struct{}, 100)}
}

func (v *valve) gate(ctx context.Context, end int64) error {
	if end <= v.at {
		return ctx.Err()
	}
	select {
	case <-v.open:
		return ctx.Err()
	default:
	}
	v.blocked <- struct{}{}
	select {
	case <-v.open:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// TestWokenBySpan has readers of one request served one by one, as its bytes come in.
func TestWokenBySpan(t *testing.T) {
	const size = 100_000
	d := plainLayer(4, size)
	src := d.source()
	v := newValve(2 * size)
	src.gate = v.gate
	l := mustLayer(t, mustOpen(t, t.TempDir(), Options{}), d, src)
	all := make(chan error, 1)
	go func() { all <- l.ReadAt(t.Context(), make([]byte, 4*size), 0) }()
	<-v.blocked // the first two spans have come, the others have not
	mustRead(t, l, d, 0, size)
	mustRead(t, l, d, size+5, 10)
	select {
	case err := <-all:
		t.Fatalf("served without its bytes: %v", err)
	default:
	}
	if n := src.requests(); n != 1 {
		t.Errorf("%d requests", n)
	}
	close(v.open)
	must(t, <-all)
}

// TestServedInSpan has a reader served before its span is inflated to the end.
func TestServedInSpan(t *testing.T) {
	d := gzipLayer(t, 64<<20)
	l := mustLayer(t, mustOpen(t, t.TempDir(), Options{}), d, d.source())
	r := newRead(demand)
	p := make([]byte, 500)
	f := &flight{span: 0}
	f.waits = []wait{{r, piece{0, 100, p}}}
	r.left = 1
	j := &job{l: l, f: f, src: bytes.Clone(d.blob[d.zi.Spans[0].In.Off:d.zi.Spans[0].In.End()])}
	if !j.verify() {
		t.Fatal("not verified")
	}
	must(t, j.inflate())
	select {
	case <-r.done:
	default:
		t.Fatal("the reader still waits")
	}
	if f.ready >= int64(len(f.buf)) || !bytes.Equal(p, d.plain[100:600]) {
		t.Errorf("%d of %d bytes inflated for %d", f.ready, len(f.buf), len(p))
	}
	j.dec.Close()
}

// TestClosedInSpan closes layers whose readers have been served, but whose spans have
// not been inflated to the end.
func TestClosedInSpan(t *testing.T) {
	d := gzipLayer(t, 64<<20)
	for range 20 {
		s, err := Open(t.TempDir(), Options{})
		must(t, err)
		l := mustLayer(t, s, d, d.source())
		mustRead(t, l, d, 100, 500)
		must(t, s.Close())
		idle(t, s)
	}
}

// TestServedBeforeWritten has a disk that takes no bytes until a reader was served.
func TestServedBeforeWritten(t *testing.T) {
	d := plainLayer(2, 1000)
	l := mustLayer(t, mustOpen(t, t.TempDir(), Options{}), d, d.source())
	w := &slowFile{file: l.disk.data, open: make(chan struct{})}
	l.disk.data = w
	mustRead(t, l, d, 0, 2000)
	mustRead(t, l, d, 500, 1000) // from memory
	if l.Stats().SpansPresent != 0 {
		t.Error("written before it could be")
	}
	close(w.open)
	settled(t, l)
	if l.Stats().SpansPresent != 2 {
		t.Error("not written")
	}
}

// slowFile is written to once it is open.
type slowFile struct {
	file
	open chan struct{}
}

func (f *slowFile) WriteAt(p []byte, off int64) (int, error) {
	<-f.open
	return f.file.WriteAt(p, off)
}

// TestDemandBeforeFill has a reader come while Fill is under way: what is near in
// the stream is waited for, and Fill does not pause for it; what is far is asked
// for, and Fill pauses meanwhile.
func TestDemandBeforeFill(t *testing.T) {
	const size = 400 << 10
	d := plainLayer(10, size)
	for _, c := range []struct {
		name     string
		span     int64
		requests int
	}{{"near", 2, 1}, {"far", 9, 2}} {
		t.Run(c.name, func(t *testing.T) {
			src := d.source()
			v := newValve(size)
			far := newValve(9 * size)
			src.gate = func(ctx context.Context, end int64) error {
				if end > 9*size {
					return far.gate(ctx, end)
				}
				return v.gate(ctx, end)
			}
			l := mustLayer(t, mustOpen(t, t.TempDir(), Options{Quiet: now}), d, src)
			filled := make(chan error, 1)
			go func() { filled <- l.Fill(t.Context()) }()
			<-v.blocked // in the second span
			read := make(chan error, 1)
			p := make([]byte, 100)
			go func() { read <- l.ReadAt(t.Context(), p, c.span*size) }()
			waiters(t, l, int(c.span), 1+1)
			if c.name == "far" {
				<-far.blocked
			}
			close(v.open)
			if c.name == "far" {
				// Fill has its second span, and goes no further while the reader waits.
				mustSettle(t, l, 1)
				if l.spans[4].Load() == present {
					t.Error("Fill went on")
				}
				close(far.open)
				must(t, <-read)
			} else {
				must(t, <-read)
				close(far.open)
			}
			must(t, <-filled)
			if !bytes.Equal(p, d.plain[c.span*size:][:100]) || src.requests() != c.requests {
				t.Errorf("%d requests, want %d", src.requests(), c.requests)
			}
		})
	}
}

// mustSettle waits until span i is present.
func mustSettle(t *testing.T, l *Layer, i int) {
	t.Helper()
	for t.Context().Err() == nil && l.spans[i].Load() != present {
		waiters(t, l, i, 0)
	}
}

// TestAbsorb has misses next to one another share a request that has to wait.
func TestAbsorb(t *testing.T) {
	const size = 1000
	d := plainLayer(9, size)
	src := d.source()
	v := newValve(0)
	src.gate = v.gate
	s := mustOpen(t, t.TempDir(), Options{Requests: 2, Quiet: now})
	s.slots.share[demand] = 2
	l := mustLayer(t, s, d, src)
	res := make(chan error, 10)
	read := func(i int64) {
		go func() {
			p := make([]byte, 10)
			err := l.ReadAt(t.Context(), p, i*size)
			if err == nil && !bytes.Equal(p, d.plain[i*size:][:10]) {
				err = errors.New("wrong bytes")
			}
			res <- err
		}()
		waiters(t, l, int(i), 1)
	}
	read(0)
	<-v.blocked
	read(2)
	<-v.blocked // both requests that may be made are under way
	for _, i := range []int64{6, 7, 5, 8} {
		read(i)
	}
	close(v.open)
	for range 6 {
		must(t, <-res)
	}
	if got, want := src.reqs[2:], []ztoc.Range{{Off: 5 * size, Len: 4 * size}}; !slices.Equal(got, want) {
		t.Errorf("requests %v, want %v", got, want)
	}
}

// TestCalmIsLeft has what waits for calm become urgent just when it begins to wait.
func TestCalmIsLeft(t *testing.T) {
	c := newCalm(time.Hour, 0)
	c.enter()
	var u urgency
	u.c.Store(uint32(background))
	res := make(chan error, 1)
	c.mu.Lock()
	go func() { res <- c.wait(t.Context(), &u) }()
	u.raise(demand)
	c.wake()
	c.mu.Unlock()
	must(t, <-res)
}

// TestCalmReads holds the background back while somebody reads, but not for ever.
func TestCalmReads(t *testing.T) {
	c := newCalm(time.Hour, 0)
	c.note()
	if left := c.left(); left <= 0 || left > maxHeld || c.held.IsZero() {
		t.Errorf("%v left at once, held since %v", left, c.held)
	}
	if left := c.left(); left <= 0 || left > maxHeld {
		t.Errorf("%v left", left)
	}
	c.held = time.Now().Add(-maxHeld)
	c.note()
	if left := c.left(); left > 0 {
		t.Errorf("%v left after %v", left, maxHeld)
	}
	c.enter()
	c.leave()
	if left := c.left(); left <= 0 || left > breather {
		t.Errorf("%v left behind a reader that waited", left)
	}
	c.read.Store(-int64(time.Hour))
	if c.left(); !c.held.IsZero() {
		t.Error("held back by nobody")
	}
}

// TestUrgencyEnds has Fill pause in a request that a reader has made urgent, once
// the reader has its span.
func TestUrgencyEnds(t *testing.T) {
	const size = 100_000
	d := plainLayer(5, size)
	src := d.source()
	v := newValve(size)
	src.gate = v.gate
	l := mustLayer(t, mustOpen(t, t.TempDir(), Options{Quiet: now}), d, src)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	filled := make(chan error, 1)
	go func() { filled <- l.Fill(ctx) }()
	<-v.blocked // in the second span
	read := make(chan error, 1)
	go func() { read <- l.ReadAt(t.Context(), make([]byte, 10), size) }()
	waiters(t, l, 1, 2)
	l.store.calm.enter() // another reader
	close(v.open)
	must(t, <-read)
	mustSettle(t, l, 1)
	l.mu.Lock()
	f := l.flights[3]
	if f == nil || f.req.u.class() != background {
		t.Error("the rest of the request is still urgent")
	}
	l.mu.Unlock()
	l.store.calm.leave()
	must(t, <-filled)
}

// TestOpening opens layers, before and after somebody reads.
func TestOpening(t *testing.T) {
	c := newCalm(time.Hour, 0)
	left := func() time.Duration {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.held = time.Time{}
		return c.left()
	}
	c.read.Store(-int64(2 * time.Hour))
	if d := left(); d > 0 {
		t.Fatalf("long after a read the background waits %v", d)
	}
	c.opened()
	if d := left(); d <= 0 || d > opening {
		t.Errorf("after a layer was opened the background waits %v, want at most %v", d, opening)
	}
	c.note()
	c.opened()
	if d := left(); d <= opening {
		t.Errorf("after a read, and a layer that was opened, the background waits %v", d)
	}
}

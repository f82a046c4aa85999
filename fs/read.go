// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/fs/internal/proc"
	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/ztoc"
)

// Read reads from a regular file. See server.read, which does the same where debugging is off.
func (r *raw) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	x, n, st := r.readable(in, len(buf))
	if st.Ok() && n > 0 {
		ctx := &readContext{request: cancel, closing: r.f.done, pid: in.Pid}
		defer ctx.end()
		if st = r.f.admit(ctx, x); st.Ok() {
			st = r.readAt(ctx, x, in, buf[:n])
		}
	}
	if !st.Ok() {
		return nil, st
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// readable returns the file to read from and how much there is to be read, at most room.
func (r *raw) readable(in *fuse.ReadIn, room int) (ref, int, fuse.Status) {
	x, st := r.find(in.NodeId)
	if !st.Ok() {
		return x, 0, st
	}
	n := x.node()
	if n.mode&unix.S_IFMT != unix.S_IFREG {
		return x, 0, fuse.EINVAL
	}
	if in.Offset >= uint64(n.size) {
		return x, 0, fuse.OK
	}
	return x, int(min(uint64(room), uint64(in.Size), uint64(n.size)-in.Offset)), fuse.OK
}

// readAt fills p from file x.
func (r *raw) readAt(ctx context.Context, x ref, in *fuse.ReadIn, p []byte) fuse.Status {
	r.f.stats.reads.Add(1)
	file := ztoc.Range{Off: x.node().data, Len: x.node().size}
	err := x.l.data.ReadFile(ctx, p, file.Off+int64(in.Offset), file)
	if err != nil {
		return r.f.failed(x.l, err)
	}
	r.f.stats.bytes.Add(int64(len(p)))
	return fuse.OK
}

// failed is the one place where errors become errnos.
func (f *FS) failed(l *layer, err error) fuse.Status {
	if errors.Is(err, context.Canceled) {
		f.stats.interrupted.Add(1)
		return fuse.EINTR
	}
	f.stats.errors.Add(1)
	if held, ok := l.failures.log(time.Now()); ok {
		attrs := []any{"layer", l.name, "error", err, "held_back", held}
		if se := (*span.Error)(nil); errors.As(err, &se) {
			attrs = append(attrs, "span", se.Span)
		}
		f.opts.Log.Error("layer read failed", attrs...)
	}
	return fuse.EIO
}

// failures says which failed reads of a layer to log: one a second.
type failures struct {
	last atomic.Int64 // Unix nanoseconds
	held atomic.Int64 // failures since then
}

// log reports whether to log now, and how many failures went unlogged before.
func (s *failures) log(now time.Time) (held int64, ok bool) {
	last := s.last.Load()
	if now.UnixNano()-last < int64(time.Second) || !s.last.CompareAndSwap(last, now.UnixNano()) {
		s.held.Add(1)
		return 0, false
	}
	return s.held.Swap(0), true
}

// killPoll is how often a reader that got a signal is looked at.
const killPoll = 100 * time.Millisecond

// readContext is the context of one READ, for the goroutine that serves it. It ends
// when the reader is killed, or the file system closed. Only a read that has to wait
// asks for Done; the others start nothing.
type readContext struct {
	request <-chan struct{} // closed when the kernel interrupts the request
	closing <-chan struct{} // closed by FS.Close
	pid     uint32          // the reading thread; 0 if it is not of our pid namespace
	unique  uint64          // number of the request
	signal  chan struct{}   // request, to be closed; nil once it is

	ended chan struct{} // Done; nil until it is asked for
	stop  chan struct{} // closed by end
	wg    sync.WaitGroup
}

// reads are the READs under way, which the kernel may interrupt.
type reads struct {
	mu sync.Mutex
	m  map[uint64]*readContext // by number of the request
}

// begin returns the context of a READ, until end.
func (r *reads) begin(in *fuse.ReadIn, closing <-chan struct{}) *readContext {
	c := &readContext{closing: closing, pid: in.Pid, unique: in.Unique, signal: make(chan struct{})}
	c.request = c.signal
	r.mu.Lock()
	defer r.mu.Unlock()
	r.m[c.unique] = c
	return c
}

// end ends a READ.
func (r *reads) end(c *readContext) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.m, c.unique)
}

// interrupt tells a READ that its reader got a signal, if it is under way.
func (r *reads) interrupt(unique uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.m[unique]
	if c == nil {
		return false
	}
	if c.signal != nil {
		close(c.signal)
		c.signal = nil
	}
	return true
}

// Deadline implements context.Context.
func (c *readContext) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value implements context.Context.
func (c *readContext) Value(any) any { return nil }

// Done implements context.Context.
func (c *readContext) Done() <-chan struct{} {
	if c.ended == nil {
		c.ended, c.stop = make(chan struct{}), make(chan struct{})
		c.wg.Go(c.watch)
	}
	return c.ended
}

// Err implements context.Context.
func (c *readContext) Err() error {
	select {
	case <-c.ended:
		return context.Canceled
	default:
		return nil
	}
}

// end releases what Done has started.
func (c *readContext) end() {
	if c.stop != nil {
		close(c.stop)
		c.wg.Wait()
	}
}

// watch ends the context when the kernel interrupts the request because the reader
// is being killed. The kernel interrupts once, at the first signal of any kind: a
// reader that goes on after that is looked at again, as it may be killed later.
func (c *readContext) watch() {
	select {
	case <-c.stop:
		return
	case <-c.closing:
		close(c.ended)
		return
	case <-c.request:
	}
	tick := time.NewTicker(killPoll)
	defer tick.Stop()
	for !proc.Killed(c.pid) {
		select {
		case <-c.stop:
			return
		case <-c.closing:
			close(c.ended)
			return
		case <-tick.C:
		}
	}
	close(c.ended)
}

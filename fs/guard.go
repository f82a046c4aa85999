// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// ErrUnverified is why a file of a layer that nobody has said anything about cannot be read.
var ErrUnverified = errors.New("privileged file of a layer that is not verified")

// errCrowd is why a request does not wait.
var errCrowd = errors.New("too many requests wait for layers already")

// DefaultGuardWait is what Options.GuardWait is if it is 0.
const DefaultGuardWait = 10 * time.Minute

// xattrCaps is the extended attribute that gives a file capabilities.
const xattrCaps = "security.capability"

// privileged reports whether the file n, with the extended attribute key or "", gives who runs
// it what they do not have: directories with these bits do not.
func privileged(n *node, key string) bool {
	return n.mode&unix.S_IFMT == unix.S_IFREG && (n.mode&(unix.S_ISUID|unix.S_ISGID) != 0 || key == xattrCaps)
}

// guard is what is known of whether a layer is what its image says.
type guard struct {
	told    chan struct{} // closed by the first verdict that does not match ErrUnverified
	waiting atomic.Int64  // requests

	mu      sync.Mutex // guards what follows
	verdict error      // the last one, one that matches ErrUnverified up to then
	good    bool       // verdict is nil, for good
}

func newGuard() *guard {
	return &guard{told: make(chan struct{}), verdict: ErrUnverified}
}

// tell passes a verdict on. After a good one there is no other, and one that is still to come
// takes none back.
func (g *guard) tell(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.good {
		return
	}
	told := false
	select {
	case <-g.told:
		told = true
	default:
	}
	switch later := errors.Is(err, ErrUnverified); {
	case later && told:
		return
	case !later && !told:
		close(g.told)
	}
	g.verdict, g.good = err, err == nil
}

// last returns the last verdict.
func (g *guard) last() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.verdict
}

// wait waits for the first verdict, for so long, and returns the last one.
func (g *guard) wait(ctx context.Context, most time.Duration) error {
	select {
	case <-g.told:
		return g.last()
	default:
	}
	late := time.NewTimer(most)
	defer late.Stop()
	select {
	case <-g.told:
	case <-late.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return g.last()
}

// admit has a READ of a privileged file wait until its layer is verified.
func (f *FS) admit(ctx context.Context, x ref) fuse.Status {
	if x.l.guard == nil || x.node().flags&flagPrivileged == 0 {
		return fuse.OK
	}
	g := x.l.guard
	select {
	case <-g.told:
	default:
		f.stats.guarded.Add(1)
		if err := f.queue(&g.waiting); err != nil {
			return f.failed(x.l, fmt.Errorf("%w: %w", ErrUnverified, err))
		}
		defer f.unqueue(&g.waiting)
		if f.opts.OnGuarded != nil {
			f.opts.OnGuarded(x.l.name)
		}
	}
	if err := g.wait(ctx, f.opts.GuardWait); err != nil {
		return f.failed(x.l, err)
	}
	return fuse.OK
}

// queue counts a request that is to wait, of those that wait for the same layer, too, until
// unqueue. It is an error if too many do: each keeps one of maxLoops for long, and with all of
// them taken nobody would read the kernel's requests for any layer.
func (f *FS) queue(layer *atomic.Int64) error {
	limit := f.opts.maxWaiting
	of, all := layer.Add(1), f.waiting.Add(1)
	if of <= (limit+1)/2 && all <= limit {
		return nil
	}
	f.unqueue(layer)
	return errCrowd
}

func (f *FS) unqueue(layer *atomic.Int64) {
	layer.Add(-1)
	f.waiting.Add(-1)
}

// Verified says that all of the layer name is there and is what it should be, or why that is not
// so, or not known, for now. It matters only with Options.GuardPrivileged: files that are setuid or
// setgid, or have capabilities, can be read after a good verdict, to which no other is added; after
// a bad one they fail with EIO until there is a good one. An err that matches ErrUnverified says why
// there is no verdict yet: reads wait on, and fail with it after Options.GuardWait.
func (f *FS) Verified(name string, err error) error {
	l := f.table.Load().names[name]
	if l == nil {
		return fmt.Errorf("verified layer %s: %w", name, ErrNotAttached)
	}
	if l.guard != nil {
		l.guard.tell(err)
	}
	return nil
}

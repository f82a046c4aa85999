// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// class says who waits for a span. Lower goes first.
type class uint32

const (
	demand     class = iota // a reader
	prefetch                // nobody yet, but soon
	background              // the rest of the layer
	classes    = 3
)

// urgency is the class of something under way, which can rise.
type urgency struct {
	c     atomic.Uint32
	hasty atomic.Bool // it does not wait for room on disk
}

func (u *urgency) class() class { return class(u.c.Load()) }

// raise reports whether c is more urgent than what it was.
func (u *urgency) raise(c class) bool {
	for {
		old := u.c.Load()
		if uint32(c) >= old {
			return false
		}
		if u.c.CompareAndSwap(old, uint32(c)) {
			return true
		}
	}
}

// gate is a weighted semaphore that lets the most urgent in first, each class
// until its share is in use, by whomever. Within a class, first come is first
// served. A class below one that waits is not let in.
type gate struct {
	share [classes]int64

	mu    sync.Mutex // guards what follows
	used  int64
	queue []*ticket // in order of arrival
}

// ticket is one who waits at a gate.
type ticket struct {
	n  int64
	u  *urgency
	in chan struct{} // closed when let in
}

// acquire waits for n, and returns what is to be released. More than there is to have
// is let in alone.
func (g *gate) acquire(ctx context.Context, n int64, u *urgency) (int64, error) {
	t := &ticket{n: n, u: u, in: make(chan struct{})}
	g.mu.Lock()
	g.queue = append(g.queue, t)
	g.admit()
	g.mu.Unlock()
	select {
	case <-t.in:
		return t.n, nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.queue, t); i >= 0 {
		g.queue = slices.Delete(g.queue, i, i+1)
	} else {
		g.used -= t.n
	}
	g.admit()
	return 0, ctx.Err()
}

func (g *gate) release(n int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.used -= n
	g.admit()
}

// look lets in who may come in after an urgency was raised.
func (g *gate) look() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.admit()
}

// admit lets in all who may come in. The caller holds g.mu.
func (g *gate) admit() {
	for c := demand; c < classes; c++ {
		for i := 0; i < len(g.queue); {
			t := g.queue[i]
			if t.u.class() > c {
				i++ // its turn comes later
				continue
			}
			if g.used > 0 && g.used+t.n > g.share[c] {
				return
			}
			g.used += t.n
			g.queue = slices.Delete(g.queue, i, i+1)
			close(t.in)
		}
	}
}

// shares returns what of n each class may use: readers all of it, Fill a quarter.
// least of it is kept free for readers.
func shares(n, least int64) [classes]int64 {
	return [classes]int64{demand: n, prefetch: n - least, background: max(n/4, 1)}
}

// slotShares returns the shares of n requests. Readers may make more, as those who
// wait for a registry that does not answer must not keep others from another one.
func slotShares(n int64) [classes]int64 {
	sh := shares(n, 1)
	sh[demand] = readerSlots * n
	return sh
}

// calm holds the background back while readers wait, and a while after. It also does
// so while anybody reads at all, but not for ever: a container that starts needs the
// cores and the disk, even if all that it reads is there.
type calm struct {
	quiet time.Duration // without a read
	base  time.Time
	read  atomic.Int64 // when somebody last read, as nanoseconds since base

	mu    sync.Mutex // guards what follows
	busy  int        // readers that wait
	since time.Time  // when the last of them ceased to
	held  time.Time  // since when reads have held the background back; zero: they do not
	moved chan struct{}
}

const (
	breather = 100 * time.Millisecond // without a reader that waits, at most
	maxHeld  = 30 * time.Second
	// opening is for how long a new layer holds the background back: a container that
	// is pulled to be started reads within that.
	opening = 250 * time.Millisecond
)

func newCalm(quiet, age time.Duration) *calm {
	c := &calm{quiet: quiet, base: time.Now().Add(-age), moved: make(chan struct{})}
	c.note()
	return c
}

// note tells that somebody reads, and returns how long after base.
func (c *calm) note() time.Duration {
	now := time.Since(c.base)
	c.read.Store(int64(now))
	return now
}

// opened tells that somebody may be about to read.
func (c *calm) opened() {
	now := int64(time.Since(c.base) - max(0, c.quiet-opening))
	for {
		last := c.read.Load()
		if now <= last || c.read.CompareAndSwap(last, now) {
			return
		}
	}
}

// left returns for how long it is not calm yet, provided that nothing happens. The
// caller holds c.mu.
func (c *calm) left() time.Duration {
	now := time.Now()
	rest := min(c.quiet, breather) - now.Sub(c.since)
	reads := c.quiet - (now.Sub(c.base) - time.Duration(c.read.Load()))
	switch {
	case reads <= 0:
		c.held = time.Time{}
	case c.held.IsZero():
		c.held = now
		return max(rest, min(reads, maxHeld))
	case now.Sub(c.held) < maxHeld:
		return max(rest, min(reads, maxHeld-now.Sub(c.held)))
	}
	return rest
}

// enter tells that a reader waits, until leave.
func (c *calm) enter() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy++
}

func (c *calm) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy--; c.busy == 0 {
		c.since = time.Now()
		c.wake()
	}
}

// look has those who wait look at their urgency again.
func (c *calm) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wake()
}

// wake has those who wait look again. The caller holds c.mu.
func (c *calm) wake() {
	close(c.moved)
	c.moved = make(chan struct{})
}

// wait returns once no reader has waited for a while, or u is above background.
func (c *calm) wait(ctx context.Context, u *urgency) error {
	for {
		c.mu.Lock()
		// Who raises u calls look then: it is seen here, or moved is the channel to close.
		urgent := u.class() != background
		busy, left, moved := c.busy > 0, c.left(), c.moved
		c.mu.Unlock()
		if urgent || !busy && left <= 0 {
			break
		}
		if err := c.pause(ctx, busy, left, moved); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// pause waits for something to change.
func (c *calm) pause(ctx context.Context, busy bool, left time.Duration, moved <-chan struct{}) error {
	var over <-chan time.Time
	if !busy {
		t := time.NewTimer(left)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-over:
	case <-moved:
	case <-ctx.Done():
	}
	return ctx.Err()
}

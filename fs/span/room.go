// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Room says whether there is room on disk for more spans.
type Room int

// The values of Room.
const (
	Enough Room = iota
	Low         // Fill waits: Options.MaxBytes or Options.Reserve are near
	Full        // nothing can be written: Fill, Prefetch and read-ahead wait, and readers are served from memory
)

const (
	checkEvery = 10 * time.Second // as others use the disk, too
	checkBytes = 16 << 20         // written, after which to look at the disk
	minRetry   = time.Second      // until a disk that is full is tried again, at first
	maxRetry   = time.Minute      // and later
	minGain    = 64 << 20         // bytes that are evicted at least from a disk that is full
	maxSlack   = 256 << 20        // bytes that are evicted beyond Options.Reserve, so as not to do it all the time
	roundTime  = 30 * time.Second // of one eviction
)

// errBudget says that Options.MaxBytes are on disk.
var errBudget = errors.New("the cache has its maximum size")

// room is the store's room on disk. Its goroutine, the keeper, evicts and has what was
// refused written again. Whoever writes waits for none of it.
type room struct {
	s       *Store
	bytes   atomic.Int64 // of spans on disk
	evicted atomic.Int64 // bytes since the store was opened
	state   atomic.Int32 // a Room; changed with mu held

	wake   chan struct{} // has room for one
	news   chan struct{} // likewise: something is to be synced in a while
	closed closing
	once   sync.Once
	keeper sync.WaitGroup

	mu      sync.Mutex                           // guards what follows
	free    func() (free, size int64, err error) // of the file system
	why     error                                // it is Full
	retry   time.Duration
	entered time.Time     // when it was last found Full
	written int64         // bytes since the disk was last looked at
	moved   chan struct{} // closed when state changes; nil if nobody waits
}

func (r *room) open(s *Store) {
	r.s, r.wake, r.news = s, make(chan struct{}, 1), make(chan struct{}, 1)
	r.free = func() (int64, int64, error) { return diskFree(s.dir) }
	r.closed = make(closing)
	r.call()
	r.keeper.Go(func() { r.keep(r.closed) })
}

// stop tells the keeper to end, which close waits for.
func (r *room) stop() { r.once.Do(func() { close(r.closed) }) }

func (r *room) close() {
	r.stop()
	r.keeper.Wait()
}

// closing is the context of what ends with the store.
type closing chan struct{}

func (c closing) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c closing) Value(any) any               { return nil }
func (c closing) Done() <-chan struct{}       { return c }

func (c closing) Err() error {
	select {
	case <-c:
		return context.Canceled
	default:
		return nil
	}
}

// diskFree returns the bytes of the file system of dir that are free for whoever may not
// take the last, which is how kubelet counts, and all of them.
func diskFree(dir string) (free, size int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}

func (r *room) now() Room { return Room(r.state.Load()) }

func (r *room) full() bool { return r.now() == Full }

// call has the keeper look at the disk.
func (r *room) call() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// dirty tells the keeper that there is something to sync.
func (r *room) dirty() {
	select {
	case r.news <- struct{}{}:
	default:
	}
}

// admit says whether n bytes may be written.
func (r *room) admit(n int64) error {
	limit := r.s.opts.MaxBytes
	if limit > 0 && r.bytes.Load()+n > limit {
		return errBudget
	}
	r.mu.Lock()
	r.written += n
	look := r.written >= checkBytes
	if look {
		r.written = 0
	}
	r.mu.Unlock()
	if look || limit > 0 && r.bytes.Load()+n > limit-limit/20 {
		r.call()
	}
	return nil
}

// fail notes that a span could not be written. What is wrong with one file alone is not the
// store's concern.
func (r *room) fail(err error) {
	if !general(err) {
		return
	}
	r.mu.Lock()
	again := r.now() == Full
	if now := time.Now(); !again {
		switch {
		case now.Sub(r.entered) > maxRetry || r.retry == 0:
			r.retry = minRetry
		case errors.Is(err, errLost):
			r.retry = min(2*r.retry, maxRetry)
		}
		r.entered = now
	}
	r.why = err
	r.set(Full)
	r.mu.Unlock()
	switch {
	case errors.Is(err, errLost):
		r.dirty() // there is nothing to be tried at once
	case !again:
		r.call()
	}
}

// set changes the state. The caller holds r.mu.
func (r *room) set(state Room) {
	if r.now() == state {
		return
	}
	r.state.Store(int32(state))
	r.wakeAll()
}

// wakeAll has those who wait look again. The caller holds r.mu.
func (r *room) wakeAll() {
	if r.moved != nil {
		close(r.moved)
		r.moved = nil
	}
}

// nudge has those who wait look at their urgency again.
func (r *room) nudge() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wakeAll()
}

// wait returns when there is room for what u's class brings: for the background it must not
// be Low, and for any that nobody waits for not Full. Who is hasty gets errNoRoom then.
func (r *room) wait(ctx context.Context, u *urgency) error {
	for {
		r.mu.Lock()
		state, c := r.now(), u.class()
		if c == demand || state == Enough || state == Low && c != background {
			r.mu.Unlock()
			return ctx.Err()
		}
		if u.hasty.Load() {
			r.mu.Unlock()
			return errNoRoom
		}
		if r.moved == nil {
			r.moved = make(chan struct{})
		}
		moved := r.moved
		r.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// keep is the keeper.
func (r *room) keep(ctx context.Context) {
	told := Enough
	tell := func() (wait time.Duration) {
		r.mu.Lock()
		state, why, wait := r.now(), r.why, checkEvery
		if state == Full {
			wait = r.retry
		}
		r.mu.Unlock()
		if state != told && r.s.opts.OnRoom != nil && ctx.Err() == nil {
			r.s.opts.OnRoom(state, why)
		}
		told = state
		return wait
	}
	timer := time.NewTimer(checkEvery)
	defer timer.Stop()
	next := time.Now().Add(checkEvery)
	for {
		select {
		case <-r.news:
			if soon := time.Now().Add(syncEvery); soon.Before(next) {
				next = soon
				timer.Reset(syncEvery)
			}
			continue
		case <-r.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		tell() // it may be over before long
		r.look(ctx)
		wait := tell()
		if r.s.unsynced() {
			wait = min(wait, syncEvery)
		}
		next = time.Now().Add(wait)
		timer.Reset(wait)
	}
}

// look compares what is there with what may be, evicts what is too much, and tries again
// to write where that failed.
func (r *room) look(ctx context.Context) {
	r.mu.Lock()
	full, why := r.now() == Full, r.why
	r.mu.Unlock()
	soft, hard := r.excess()
	if full && spaceless(why) {
		hard = max(hard, minGain)
	}
	if soft > 0 || hard > 0 {
		round, cancel := context.WithTimeout(ctx, roundTime)
		got := r.s.evict(round, hard, true)
		r.s.evict(round, soft-got, false)
		cancel()
	}
	healed := r.s.heal(ctx)
	var err error
	if full || healed {
		err = r.flush()
	}
	if !full && err != nil {
		r.fail(err)
	}
	if e := r.s.sync(ctx); err == nil {
		err = e
	}
	if full && err != nil {
		r.mu.Lock()
		r.why, r.retry = err, min(2*r.retry, maxRetry)
		r.mu.Unlock()
		return
	}
	state := Enough
	if r.low() {
		state = Low
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if full || r.now() != Full { // else it has become so meanwhile
		r.why = nil
		r.set(state)
	}
}

// spaceless reports whether err says that there is too little room, which more of it would cure.
func spaceless(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// general reports whether err, of a write, concerns all files.
func general(err error) bool {
	return spaceless(err) || errors.Is(err, unix.EROFS) || errors.Is(err, errBudget) || errors.Is(err, errLost)
}

// reserve returns the bytes that are free, and those that are to be.
func (r *room) reserve() (free, want int64) {
	if r.s.opts.Reserve == nil {
		return 0, 0
	}
	r.mu.Lock()
	look := r.free
	r.mu.Unlock()
	free, size, err := look()
	if err != nil {
		return 0, 0 // writing will show what is wrong
	}
	return free, min(max(r.s.opts.Reserve(size), 0), size)
}

// excess returns how many bytes are to be evicted: for the sake of Options.Reserve only what
// is not missed much, and for that of Options.MaxBytes whatever it takes.
func (r *room) excess() (soft, hard int64) {
	if free, want := r.reserve(); free < want {
		soft = want - free + slack(want)
	}
	if limit := r.s.opts.MaxBytes; limit > 0 && r.bytes.Load() > limit-limit/20 {
		hard = r.bytes.Load() - (limit - limit/10)
	}
	return soft, hard
}

func slack(reserve int64) int64 { return min(reserve/8, maxSlack) }

// low reports whether Fill would soon have others' spans evicted.
func (r *room) low() bool {
	free, want := r.reserve()
	limit := r.s.opts.MaxBytes
	return free < want+slack(want) || limit > 0 && r.bytes.Load() > limit-limit/10
}

// flush writes down what was refused, until there is no room again.
func (r *room) flush() error {
	for _, s := range r.s.kept.all() {
		if !s.l.enter() {
			continue
		}
		err := s.l.write(s.i, s.p)
		s.l.leave()
		if general(err) {
			return err
		}
	}
	return nil
}

// StoreStats is a copy of a store's counters.
type StoreStats struct {
	Bytes     int64 // uncompressed bytes of spans on disk, of the layers that are open
	Evicted   int64 // likewise, evicted since Open
	KeptBytes int64 // of spans in memory because they could not be written
	Room      Room
}

// Stats returns the store's counters.
func (s *Store) Stats() StoreStats {
	s.kept.mu.Lock()
	defer s.kept.mu.Unlock()
	return StoreStats{Bytes: s.room.bytes.Load(), Evicted: s.room.evicted.Load(), KeptBytes: s.kept.bytes, Room: s.room.now()}
}

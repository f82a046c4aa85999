// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"slices"
)

const (
	rushWorkers = 2    // that do what somebody waits for, beside those who do the rest
	maxMissed   = 1024 // layers that are remembered to be waited for before they are there
)

// rush is which layers readers wait for until they are verified. Guarded by fills.mu.
type rush struct {
	fills   map[string]*fill    // that are not done with, by layer key
	missed  map[string]struct{} // keys that were asked for before they were there
	running int                 // of rushWorkers
}

// hurry says that a reader waits for a layer. Guarded by fills.mu.
type hurry struct {
	on  bool
	now chan struct{} // closed to end the wait for the next try; nil if there is none
}

// add notes a fill, and reports whether a reader waits for it already.
func (r *rush) add(f *fill) bool {
	if r.fills == nil {
		r.fills = make(map[string]*fill)
	}
	r.fills[f.key] = f
	_, missed := r.missed[f.key]
	delete(r.missed, f.key)
	return missed
}

// remove forgets f.
func (r *rush) remove(f *fill) {
	if r.fills[f.key] == f {
		delete(r.fills, f.key)
	}
}

// miss notes that a reader waits for a layer that is not there yet, or not any more.
func (r *rush) miss(key string) {
	if r.missed == nil || len(r.missed) >= maxMissed {
		r.missed = make(map[string]struct{})
	}
	r.missed[key] = struct{}{}
}

// hasten has the layer key verified before all others, and at once: a reader waits for it.
func (s *fills) hasten(key string) {
	s.mu.Lock()
	f := s.rush.fills[key]
	if f == nil {
		s.rush.miss(key)
	}
	if f == nil || f.hurry.on || f.verified {
		s.mu.Unlock()
		return
	}
	f.hurry.on = true
	if f.hurry.now != nil {
		close(f.hurry.now)
		f.hurry.now = nil
	}
	if i := slices.Index(s.queue, f); i >= 0 {
		s.queue = slices.Insert(slices.Delete(s.queue, i, i+1), 0, f)
	}
	begin := s.rushes()
	s.mu.Unlock()
	if h, ok := f.data.(hurrier); ok {
		h.Hurry()
	}
	if begin {
		s.tasks.run(s.rushed)
	}
}

// rushes reports whether one more is to do what readers wait for, which the caller sees to. It holds s.mu.
func (s *fills) rushes() bool {
	if s.rush.running == rushWorkers || !slices.ContainsFunc(s.queue, func(f *fill) bool { return f.hurry.on }) {
		return false
	}
	s.rush.running++
	return true
}

// rushed completes layers that readers wait for until none of the queue is.
func (s *fills) rushed(ctx context.Context) {
	for {
		s.mu.Lock()
		i := slices.IndexFunc(s.queue, func(f *fill) bool { return f.hurry.on })
		if i < 0 || ctx.Err() != nil {
			s.rush.running--
			s.mu.Unlock()
			return
		}
		f := s.queue[i]
		s.queue = slices.Delete(s.queue, i, i+1)
		s.mu.Unlock()
		s.complete(ctx, f)
	}
}

// hurried reports whether a reader waits for f.
func (s *fills) hurried(f *fill) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f.hurry.on
}

// relax ends the hurry of f: it has been told what it is.
func (s *fills) relax(f *fill) {
	s.mu.Lock()
	on := f.hurry.on
	f.hurry.on = false
	s.mu.Unlock()
	if h, ok := f.data.(hurrier); ok && on {
		h.Relax()
	}
}

// forget forgets f, which is done with.
func (s *fills) forget(f *fill) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rush.remove(f)
}

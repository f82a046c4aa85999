// SPDX-License-Identifier: Apache-2.0

package snapshotter

import "context"

// Remove removes the snapshot key. With its last snapshot a lazy layer is
// removed from disk.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	s.recorder.finish(key)
	var r *remoteSnapshot
	err := s.roomy(ctx, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		r = s.remote[key]
		err := s.inner.Remove(ctx, key)
		if err == nil && r != nil {
			r.closed.Store(true)
			delete(s.remote, key)
		}
		return err
	})
	if err != nil || r == nil {
		return err
	}
	s.images.removed(r.ref)
	if r.mu.TryLock() {
		s.letGo(r)
	} else { // it is being repaired, which ends when it ends
		s.tasks.run(func(context.Context) {
			r.mu.Lock()
			s.letGo(r)
		})
	}
	return nil
}

// letGo releases the layer of a removed snapshot, and unlocks r.mu, which the caller holds.
func (s *Snapshotter) letGo(r *remoteSnapshot) {
	l := r.layer
	r.layer = nil
	r.mu.Unlock()
	if l == nil {
		return
	}
	s.unpay(r.name, l)
	if err := s.layers.release(l); err != nil {
		// The snapshot is gone; a restart deletes what is left of the layer.
		s.opts.Log.Warn("remove layer of snapshot", "key", r.name, "error", err)
	}
}

// Cleanup deletes from disk what removed snapshots left there, but nothing that
// metadata restored from a copy does not know of.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	held, some, err := heldIDs(heldPath(s.opts.Root))
	switch {
	case err != nil:
		return err
	case some:
		return s.cleanupBut(ctx, held)
	}
	return s.inner.Cleanup(ctx)
}

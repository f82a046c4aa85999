// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The waits between two tries to repair a layer that somebody may be waiting for.
const (
	repairMin = time.Second
	repairMax = time.Minute
)

// goneAfter is for how long the registry must say that it does not have a layer's zTOC, which its index lists,
// before the layer is repaired with another one.
const goneAfter = 2 * time.Minute

// repairAll has the layers served that could not be restored, from the registry: those
// who use the mount that was taken over may need them, and will not ask this snapshotter.
func (s *Snapshotter) repairAll() {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.remote))
	s.mu.Unlock()
	for _, r := range all {
		if l, _ := r.served(); l != nil && l.attached() {
			continue
		}
		r.used.Store(true)
		s.tasks.run(func(ctx context.Context) { s.repairUntil(ctx, r, time.After) })
	}
}

// repairUntil repairs the snapshot, however often that takes: the registry may be away.
// after is time.After.
func (s *Snapshotter) repairUntil(ctx context.Context, r *remoteSnapshot, after func(time.Duration) <-chan time.Time) {
	for wait := repairMin; ; wait = min(2*wait, repairMax) {
		err := contained(func() error { return s.repair(ctx, r) })
		switch {
		case err == nil, ctx.Err() != nil:
			return
		case r.refErr != nil && errors.Is(err, r.refErr), errors.Is(err, errMismatch):
			// What its labels lack does not come back, nor does a layer that is condemned.
			s.opts.Log.Error("snapshot cannot be repaired", "key", r.name, "layer", r.ref.Layer.String(), "error", err)
			return
		}
		s.opts.Log.Error("repair snapshot", "key", r.name, "layer", r.ref.Layer.String(), "again_in", wait, "error", err)
		select {
		case <-after(wait):
		case <-ctx.Done():
			return
		}
	}
}

// repair serves the snapshot's layer if it is not being served: from disk, or
// else from the registry.
func (s *Snapshotter) repair(ctx context.Context, r *remoteSnapshot) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed.Load() || r.layer != nil && r.layer.attached() {
		return nil
	}
	err := s.repairLocked(ctx, r)
	if r.closed.Load() {
		return nil // removed meanwhile
	}
	return err
}

// repairLocked is repair of a snapshot that is not being served. The caller holds r.mu.
func (s *Snapshotter) repairLocked(ctx context.Context, r *remoteSnapshot) error {
	if r.layer != nil {
		if path, err := s.layers.restore(r.layer); err == nil {
			return s.relink(r, path)
		}
	}
	if r.refErr != nil {
		return r.refErr
	}
	p := &preparation{ref: r.ref}
	if err := s.decide(ctx, p); err != nil {
		return err
	}
	same := s.same(r, p)
	err := s.serve(ctx, p, func(toc []byte) error { return s.reopen(ctx, r, p, toc) })
	switch fault := ztocFault(err); {
	case !same || fault == nil || fault.reason != ReasonZTOCFetch || !errors.Is(fault.err, errdefs.ErrNotFound):
		r.gone = time.Time{}
	case r.gone.IsZero():
		r.gone = time.Now()
	}
	return err
}

// same has the layer of p, if it may be in use, served with the zTOC that r had, as long as the index lists
// that, and the registry has it: those who use it know it by its slot and the numbers of its files, and would lose
// it to another one that is just easier to be had. A layer that is condemned can only have another. It reports
// whether the layer is to have no other.
func (s *Snapshotter) same(r *remoteSnapshot, p *preparation) bool {
	if !r.used.Load() || r.layer == nil || !r.gone.IsZero() && time.Since(r.gone) >= goneAfter || s.layers.states.condemned(r.layer.key, p.diffID) {
		return false
	}
	for _, desc := range p.ztocs {
		if layerKey(p.layer.Digest, desc.Digest) == r.layer.key {
			p.ztocs = []ocispec.Descriptor{desc}
			return true
		}
	}
	return false
}

// reopen serves the snapshot r with the zTOC toc of p. The caller holds r.mu.
func (s *Snapshotter) reopen(ctx context.Context, r *remoteSnapshot, p *preparation, toc []byte) error {
	l := s.layers.acquire(layerKey(p.layer.Digest, p.ztoc))
	path, err := s.layers.create(l, p.layerState(), toc)
	if err == nil {
		err = s.relink(r, path)
	}
	if err == nil {
		err = s.labelZTOC(ctx, r, p.ztoc)
	}
	old := l
	if err == nil {
		old, r.layer = r.layer, l
	}
	if old != nil {
		err = errors.Join(err, s.layers.release(old))
	}
	if err == nil {
		s.opts.Log.Info("repaired snapshot", "key", r.name, "layer", p.layer.Digest.String(), "format", string(l.servedFrom()))
	}
	return err
}

// labelZTOC records which zTOC the lazy snapshot r is served with.
func (s *Snapshotter) labelZTOC(ctx context.Context, r *remoteSnapshot, ztoc digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.closed.Load() {
		return fmt.Errorf("snapshot %q was removed: %w", r.name, errdefs.ErrNotFound) // another one may have the name
	}
	return s.ms.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, err := storage.UpdateInfo(ctx, snapshots.Info{
			Name:   r.name,
			Labels: map[string]string{labelZTOC: ztoc.String(), labelRemote: labelRemoteValue},
		}, "labels."+labelZTOC, "labels."+labelRemote)
		return err
	})
}

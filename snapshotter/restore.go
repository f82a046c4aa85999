// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// remoteSnapshot is a committed snapshot that links to a lazy layer.
type remoteSnapshot struct {
	name, id string
	ref      LayerRef // what its labels say; of use when there is no state on disk
	refErr   error    // why ref is of no use

	closed atomic.Bool // removed; set with Snapshotter.mu held
	used   atomic.Bool // who used it when the mount was taken over may wait for it

	mu    sync.Mutex // serialises repairs; guards what follows
	layer *layer     // nil if it is not known yet which: another daemon made the snapshot
	gone  time.Time  // since when the registry says that it does not have the zTOC of layer; zero: it does not
}

// served returns the snapshot's layer and its digest, nil if it is not known.
func (r *remoteSnapshot) served() (*layer, digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed.Load() || r.refErr != nil {
		return nil, ""
	}
	return r.layer, r.ref.Layer
}

// restore brings the state after a stop or a crash, at whatever step, back to
// what the metadata says. Where the mount was taken over, requests wait until the layers
// are there: up to then nothing may look into it.
func (s *Snapshotter) restore(ctx context.Context) error {
	remote, undo, err := s.scan(ctx)
	if err != nil {
		return fmt.Errorf("restore snapshots: %w", err)
	}
	var g errgroup.Group
	g.SetLimit(2 * runtime.GOMAXPROCS(0))
	for _, r := range remote {
		s.remote[r.name] = r
		g.Go(func() error {
			if err := contained(func() error { return s.restoreSnapshot(r) }); err != nil {
				s.opts.Log.Error("restore snapshot", "key", r.name, "layer", r.ref.Layer.String(), "error", err)
				if !errors.Is(err, errMismatch) { // it does not come back
					s.expect(r)
				}
			}
			return nil
		})
	}
	for _, l := range s.unknown() {
		g.Go(func() error {
			if err := contained(func() error { _, err := s.layers.restore(l); return err }); err != nil {
				s.opts.Log.Error("restore layer", "layer", l.key, "error", err)
				if !errors.Is(err, errMismatch) {
					s.await(l)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if s.ports.begin != nil {
		if err := s.ports.begin(); err != nil {
			return err
		}
	}
	for _, u := range undo {
		if err := unlinkDir(s.upper(u.id), u.like); err != nil {
			s.opts.Log.Error("restore active snapshot", "id", u.id, "error", err)
		}
	}
	s.sweep()
	return nil
}

// unknown returns the layers on disk that the metadata does not know of, if that was restored or has begun anew:
// containers may use them. They stay until a start at which nothing is held any more.
func (s *Snapshotter) unknown() []*layer {
	if _, held, err := heldIDs(heldPath(s.opts.Root)); !held && err == nil {
		return nil
	}
	entries, err := os.ReadDir(string(s.layers.states))
	if err != nil {
		s.opts.Log.Error("look for layers that containers may use", "error", err)
	}
	var all []*layer
	for _, e := range entries {
		if _, ok := s.layers.get(e.Name()); !ok && isLayerKey(e.Name()) {
			all = append(all, s.layers.acquire(e.Name()))
		}
	}
	return all
}

// expect has those who use the layer of r, which is not served yet, wait for it.
func (s *Snapshotter) expect(r *remoteSnapshot) {
	if l, _ := r.served(); l != nil {
		s.await(l)
	}
}

// await is expect of a layer.
func (s *Snapshotter) await(l *layer) {
	if s.ports.expect == nil {
		return
	}
	var slot uint32 // 0 where it is not known any more: those who ask by name wait at least
	if st, err := s.layers.states.loadState(l.key); err == nil {
		slot = st.Slot
	}
	if err := s.ports.expect(l.key, slot); err != nil {
		s.opts.Log.Warn("who uses the layer does not wait for it", "layer", l.key, "error", err)
	}
}

// unfinished is an active snapshot that was about to become a lazy one.
type unfinished struct {
	id   string
	like string // directory whose owner its own has; "" if none
}

// scan returns the lazy snapshots, and the active ones that were about to become one.
func (s *Snapshotter) scan(ctx context.Context) (remote []*remoteSnapshot, undo []unfinished, err error) {
	err = s.ms.WithTransaction(ctx, false, func(ctx context.Context) error {
		err := storage.WalkInfo(ctx, func(ctx context.Context, info snapshots.Info) error {
			id, _, _, err := storage.GetInfo(ctx, info.Name)
			if err != nil {
				return err
			}
			linked := isLink(s.upper(id))
			switch {
			case info.Kind == snapshots.KindCommitted && (linked || isRemote(info.Labels)):
				remote = append(remote, s.scanned(info, id))
			case info.Kind != snapshots.KindCommitted && linked:
				u := unfinished{id: id}
				if info.Parent != "" {
					pid, _, _, err := storage.GetInfo(ctx, info.Parent)
					if err != nil {
						return err
					}
					u.like = s.upper(pid)
				}
				undo = append(undo, u)
			}
			return nil
		})
		if errdefs.IsNotFound(err) {
			return nil // an empty database
		}
		return err
	})
	return remote, undo, err
}

// logLost names what ran, as far as can be known, on a mount that is lost: the active
// snapshots above a lazy one.
func (s *Snapshotter) logLost(ctx context.Context) {
	var lost []string
	err := s.ms.WithTransaction(ctx, false, func(ctx context.Context) error {
		return storage.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
			if info.Kind != snapshots.KindCommitted {
				lost = append(lost, info.Name)
			}
			return nil
		})
	})
	if err != nil && !errdefs.IsNotFound(err) {
		s.opts.Log.Error("find containers that have lost their layers", "error", err)
	}
	for _, key := range lost {
		chain, err := s.chain(ctx, key)
		if err != nil {
			s.opts.Log.Error("find containers that have lost their layers", "key", key, "error", err)
			continue
		}
		names := make([]string, len(chain))
		for i, info := range chain {
			names[i] = info.Name
		}
		if below := s.remotes(names); len(below) > 0 {
			s.opts.Log.Error("a container that was running has lost its lazy layers and has to be started again", "key", key, "layers", len(below))
		}
	}
}

// scanned is the lazy snapshot info as far as its labels and its link tell of it.
func (s *Snapshotter) scanned(info snapshots.Info, id string) *remoteSnapshot {
	r := &remoteSnapshot{name: info.Name, id: id}
	r.ref, r.refErr = parseLabels(info.Labels)
	if d, err := digest.Parse(info.Labels[labelZTOC]); err == nil && r.refErr == nil {
		r.layer = s.layers.acquire(layerKey(r.ref.Layer, d))
	} else if to, err := os.Readlink(s.upper(id)); err == nil && isLayerKey(filepath.Base(to)) {
		r.layer = s.layers.acquire(filepath.Base(to))
	}
	return r
}

// restoreSnapshot serves the snapshot's layer from what is on disk, and points its link there.
func (s *Snapshotter) restoreSnapshot(r *remoteSnapshot) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.layer == nil {
		return errors.New("no state on disk: it will be looked up in the registry when it is used")
	}
	path, err := s.layers.restore(r.layer)
	if err != nil {
		return err
	}
	return s.relink(r, path)
}

// relink points the snapshot's link at the layer's directory. What another
// daemon mounted in the link's place goes.
func (s *Snapshotter) relink(r *remoteSnapshot, path string) error {
	upper := s.upper(r.id)
	if !isLink(upper) {
		if err := unmountAll(upper); err != nil {
			return err
		}
	}
	return linkDir(upper, s.linkTarget(r.id, path))
}

// sweep deletes the states and spans of layers that no snapshot refers to:
// what a crash between two steps of a Prepare or a Remove left.
func (s *Snapshotter) sweep() {
	if _, held, err := heldIDs(heldPath(s.opts.Root)); held || err != nil {
		s.opts.Log.Warn("layers are not swept: containers may use some that the metadata, as it was restored, does not know of",
			"remove", heldPath(s.opts.Root), "error", err)
		return
	}
	for _, dir := range []string{string(s.layers.states), spansDir(s.opts.Root)} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			s.opts.Log.Warn("sweep layers", "error", err)
		}
		for _, e := range entries {
			if _, ok := s.layers.get(e.Name()); ok || !isLayerKey(e.Name()) {
				continue
			}
			l := s.layers.acquire(e.Name())
			if err := s.layers.release(l); err != nil {
				s.opts.Log.Warn("sweep layers", "error", err)
			}
		}
	}
}

// available makes sure that every lazy layer of the snapshot name and below it
// is being served, repairing what is not. The error matches
// errdefs.ErrUnavailable. An unknown name is not this function's concern.
func (s *Snapshotter) available(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	chain, err := s.chain(ctx, name)
	if err != nil {
		return err
	}
	names := make([]string, len(chain))
	for i, info := range chain {
		names[i] = info.Name
	}
	for _, r := range s.remotes(names) {
		if err := s.repair(ctx, r); err != nil {
			return fmt.Errorf("layer %s of snapshot %q is not served: %w: %w", r.ref.Layer, r.name, errdefs.ErrUnavailable, err)
		}
	}
	return nil
}

// chain returns the snapshot name and those below it, the highest first: none if
// there is no such snapshot.
func (s *Snapshotter) chain(ctx context.Context, name string) ([]snapshots.Info, error) {
	var chain []snapshots.Info
	err := s.ms.WithTransaction(ctx, false, func(ctx context.Context) error {
		for name != "" {
			_, info, _, err := storage.GetInfo(ctx, name)
			if err != nil {
				return err
			}
			chain = append(chain, info)
			name = info.Parent
		}
		return nil
	})
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	return chain, err
}

// remotes returns those of the snapshots names that are lazy.
func (s *Snapshotter) remotes(names []string) []*remoteSnapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rs []*remoteSnapshot
	for _, n := range names {
		if r := s.remote[n]; r != nil {
			rs = append(rs, r)
		}
	}
	return rs
}

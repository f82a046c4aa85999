// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"
)

// Usage returns what the snapshot key takes on disk, its parents not counted. A lazy
// snapshot takes what is there of its layer at the moment; a layer that several snapshots
// have is counted with one of them.
func (s *Snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	u, err := s.inner.Usage(ctx, key)
	if err != nil {
		return u, err
	}
	s.mu.Lock()
	r := s.remote[key]
	s.mu.Unlock()
	if r == nil {
		return u, nil
	}
	if l := r.peek(); l != nil && s.pays(key, l) {
		u.Add(s.layers.usage(l.key))
	}
	return u, nil
}

// usage returns what the layer key takes on disk: what was fetched of it, and what is
// needed to serve it.
func (s *layers) usage(key string) snapshots.Usage {
	var u snapshots.Usage
	for _, path := range []string{
		filepath.Join(s.spansDir, key), filepath.Join(s.spansDir, key, "data"), filepath.Join(s.spansDir, key, "state"),
		s.states.path(key, ""), s.states.path(key, "ztoc"), s.states.path(key, stateFile), s.states.path(key, stateCopy),
	} {
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			u.Size += st.Blocks * 512
			u.Inodes++
		}
	}
	return u
}

// pays reports whether what the layer l takes on disk is counted as the snapshot key's: that of
// one of its snapshots, and the same for as long as that is there.
func (s *Snapshotter) pays(key string, l *layer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.remote[s.payers[l.key]] == nil {
		s.payers[l.key] = key
	}
	return s.payers[l.key] == key
}

// unpay forgets that the usage of the layer l is that of key, which is gone.
func (s *Snapshotter) unpay(key string, l *layer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.payers[l.key] == key {
		delete(s.payers, l.key)
	}
}

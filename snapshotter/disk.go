// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/fs/span"
)

const (
	roomWanted = 64 << 20         // bytes that are evicted for an operation that the full disk refuses
	roomTime   = 15 * time.Second // that it may take
)

// Cache returns the counters of what is on disk of lazy layers.
func (s *Snapshotter) Cache() span.StoreStats { return s.store.Stats() }

// peek returns the snapshot's layer, nil if it is not known or being repaired.
func (r *remoteSnapshot) peek() *layer {
	if !r.mu.TryLock() {
		return nil
	}
	defer r.mu.Unlock()
	if r.closed.Load() {
		return nil
	}
	return r.layer
}

// uses says which layers containers use, and which cannot be fetched in parts; nil if it
// cannot be told.
func (s *Snapshotter) uses() map[string]span.Use {
	parents := make(map[string]string)
	var active []string
	// The context of no request: the span store asks, on its own behalf.
	err := s.ms.WithTransaction(s.tasks.ctx, false, func(ctx context.Context) error {
		return storage.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
			parents[info.Name] = info.Parent
			if info.Kind != snapshots.KindCommitted {
				active = append(active, info.Parent)
			}
			return nil
		})
	})
	if err != nil {
		return nil
	}
	uses := make(map[string]span.Use)
	used := make(map[string]bool)
	for _, name := range active {
		for ; name != "" && !used[name]; name = parents[name] {
			used[name] = true
		}
	}
	s.mu.Lock()
	for name, r := range s.remote {
		if l := r.peek(); l != nil && used[name] {
			uses[l.key] = span.InUse
		}
	}
	s.mu.Unlock()
	for key, src := range s.layers.sources() {
		if src.unranged.Load() {
			uses[key] = span.Keep
		}
	}
	return uses
}

// sources returns where the layers come from that are being served.
func (s *layers) sources() map[string]*layerSource {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := make(map[string]*layerSource)
	for key, l := range s.m {
		if src := l.src.Load(); src != nil {
			m[key] = src
		}
	}
	return m
}

// onRoom logs that the disk is full, and that it is not any more.
func (o Options) onRoom(state span.Room, why error) {
	path := spansDir(o.Root)
	switch state {
	case span.Full:
		o.Log.Warn("disk is full or not writable: layers are served from memory, and nothing is fetched ahead", "path", path, "error", why)
	case span.Low:
		o.Log.Info("no room to spare for layers: nothing is fetched in the background", "path", path)
	default:
		o.Log.Info("there is room for layers on disk", "path", path)
	}
}

// roomy calls do, and once more if that failed for want of disk space and there
// were spans to be evicted. The caller holds no lock.
func (s *Snapshotter) roomy(ctx context.Context, do func() error) error {
	err := do()
	if s.store == nil || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	room, cancel := context.WithTimeout(ctx, roomTime)
	n := s.store.MakeRoom(room, roomWanted)
	cancel()
	if n == 0 {
		return err
	}
	s.opts.Log.Info("evicted spans, as the disk is full", "path", spansDir(s.opts.Root), "bytes", n)
	return do()
}

// errNoRoom says that a layer cannot be unpacked here. Nothing is evicted for it: of how much
// would have to be, its headers only claim something.
var errNoRoom = errors.New("no room for the layer")

// fits returns a check of a tar's headers: a layer that is larger than what the disk of dir has
// left is refused before the disk is full. A header may claim any size for next to no bytes.
func fits(dir string) func(h *tar.Header, read int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil
	}
	left := int64(min(st.Bavail*uint64(st.Bsize), 1<<62))
	return func(h *tar.Header, _ int64) error {
		if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeGNUSparse {
			return nil
		}
		if h.Size < 0 || h.Size > left {
			return fmt.Errorf("%q has %d bytes, the disk only %d left: %w", h.Name, h.Size, left, errNoRoom)
		}
		left -= h.Size
		return nil
	}
}

// layerData reads the bytes of a layer with a function.
type layerData struct {
	size int64
	read func(p []byte, off int64) error
}

// ReadAt implements io.ReaderAt.
func (d layerData) ReadAt(p []byte, off int64) (int, error) {
	if n := d.size - off; n < int64(len(p)) {
		if n <= 0 {
			return 0, io.EOF
		}
		if err := d.read(p[:n], off); err != nil {
			return 0, err
		}
		return int(n), io.EOF
	}
	if err := d.read(p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

// sweepFiles deletes what a crash left that nothing refers to: temporary files, and
// layers that were about to be mended.
func (s *Snapshotter) sweepFiles() {
	soci := filepath.Join(s.opts.Root, "soci")
	var left []string
	for _, pattern := range []string{"layers/*/.tmp-*", "condemned/.tmp-*", "profiles/.tmp-*", "profiles/*/.tmp-*", "spans/*" + mendSuffix, "../snapshotter/.tmp-*"} {
		paths, err := filepath.Glob(filepath.Join(soci, pattern))
		if err != nil {
			s.opts.Log.Warn("sweep files", "pattern", pattern, "error", err)
		}
		left = append(left, paths...)
	}
	for _, path := range left {
		if strings.HasSuffix(path, mendSuffix) && !isLayerKey(strings.TrimSuffix(filepath.Base(path), mendSuffix)) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			s.opts.Log.Warn("sweep files", "error", err)
		}
	}
}

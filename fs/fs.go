// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/seekoci/seekoci/fs/span"
)

// Errors of this package.
var (
	// ErrTOC is returned by Attach for a TOC that cannot be served, within an *EntryError
	// where one entry is to blame.
	ErrTOC = errors.New("unusable TOC")
	// ErrExists is returned by Attach for a name that is taken.
	ErrExists = errors.New("name is attached already")
	// ErrNotAttached is returned by Detach for a name that is not there.
	ErrNotAttached = errors.New("name is not attached")
	// ErrMounted is returned by Mount where a live FUSE file system is mounted.
	ErrMounted = errors.New("a FUSE file system is mounted there and being served")
	// ErrMemory is returned by Attach when the file trees of the attached layers would
	// take more than Options.MaxTreeMemory.
	ErrMemory = errors.New("no memory for the file tree")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("file system is closed")
)

// Options configures Mount.
type Options struct {
	Log   *slog.Logger // nil means slog.Default
	Debug bool         // log every FUSE operation, at level debug
	// StateDir is the directory where the slot counter persists. It is required,
	// and belongs to this mount point alone.
	StateDir string
	// UserXattr marks opaque directories with user.overlay.opaque, as overlayfs
	// wants it when mounted with userxattr. Otherwise trusted.overlay.opaque is used.
	UserXattr bool
	// ReadAhead is how many bytes the kernel reads ahead; 0 means 1 MiB. As long as a
	// layer is not all on disk it is 256 KiB at most: what is read for nothing there has
	// to come from the registry.
	ReadAhead int64
	// MaxTreeMemory is how many bytes the file trees of all layers may take; 0 means 1 GiB.
	MaxTreeMemory int64
}

// Defaults of Options.
const (
	DefaultReadAhead     = 1 << 20
	DefaultMaxTreeMemory = 1 << 30
)

// FS is the node's one FUSE mount. It is safe for concurrent use.
type FS struct {
	dir    string
	opts   Options
	server *server
	served chan struct{} // closed when the server has ended
	done   chan struct{} // closed by stop: blocked reads give up
	once   sync.Once
	wg     sync.WaitGroup
	stats  counters
	trees  budget

	aheadPath string     // where the kernel has its readahead, if known; set by mount
	aheadMu   sync.Mutex // guards ahead, and what it says of the kernel
	ahead     int64      // bytes that the kernel reads ahead

	slots *slots
	table atomic.Pointer[table] // what requests look at

	mu     sync.Mutex // guards the making of new tables, and what follows
	closed bool
}

// table is the layers at one moment; it is never changed.
type table struct {
	slots   map[uint32]*layer // attached, or still in use
	names   map[string]*layer // attached
	sorted  []string          // keys of names
	changed time.Time         // modification time of the root
}

// layer is one attached layer.
type layer struct {
	name     string
	slot     uint32
	tree     *tree
	data     *span.Layer
	failures failures
	// lookups is how many references the kernel holds on the layer's nodes.
	lookups  atomic.Int64
	detached atomic.Bool
}

// clone returns a copy of t to be changed and stored.
func (t *table) clone() *table {
	now := time.Now()
	if !now.After(t.changed) {
		now = t.changed.Add(1) // listings of the root are cached by this time
	}
	return &table{slots: maps.Clone(t.slots), names: maps.Clone(t.names), changed: now}
}

// Mount mounts the file system on dir, which is made if needed, and serves it. A
// mount a killed process left there is detached first.
func Mount(dir string, opts Options) (*FS, error) {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.ReadAhead <= 0 {
		opts.ReadAhead = DefaultReadAhead
	}
	if opts.MaxTreeMemory <= 0 {
		opts.MaxTreeMemory = DefaultMaxTreeMemory
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	f := &FS{dir: abs, opts: opts, served: make(chan struct{}), done: make(chan struct{})}
	f.trees.max = opts.MaxTreeMemory
	f.table.Store(&table{slots: map[uint32]*layer{}, names: map[string]*layer{}, changed: time.Now()})
	if f.slots, err = openSlots(opts.StateDir); err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	if err := f.mount(); err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	f.wg.Go(f.sweeper)
	return f, nil
}

// Attach makes the layer appear as directory name of the mount and returns its
// path. It takes a handle of its own on data, whose Close stays the caller's.
// What the TOC says that cannot be served is ErrTOC; a tree there is no memory for is
// ErrMemory.
func (f *FS) Attach(name string, toc TOC, data *span.Layer) (path string, err error) {
	if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
		return "", fmt.Errorf("attach layer %q: name is not a plain file name", name)
	}
	room := &loan{from: &f.trees}
	defer func() {
		if err != nil {
			room.keep(0)
		}
	}()
	t, err := newTree(toc, data.Size(), f.opts.UserXattr, room)
	if err != nil {
		return "", fmt.Errorf("attach layer %s: %w", name, err)
	}
	if err := data.Retain(); err != nil {
		return "", fmt.Errorf("attach layer %s: %w", name, err)
	}
	if err := f.attach(&layer{name: name, tree: t, data: data}); err != nil {
		return "", errors.Join(fmt.Errorf("attach layer %s: %w", name, err), data.Close())
	}
	f.setReadAhead()
	return filepath.Join(f.dir, name), nil
}

func (f *FS) attach(l *layer) error {
	var err error
	if l.slot, err = f.slots.next(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return ErrClosed
	}
	t := f.table.Load().clone()
	if t.names[l.name] != nil {
		return ErrExists
	}
	t.slots[l.slot], t.names[l.name] = l, l
	f.store(t)
	return nil
}

// store publishes a table. The caller holds f.mu.
func (f *FS) store(t *table) {
	t.sorted = slices.Sorted(maps.Keys(t.names))
	f.table.Store(t)
}

// Implied returns what [Implied] does for the TOC that the layer was attached with,
// without looking at it again. It is nil for a name that is not attached.
func (f *FS) Implied(name string) []string {
	l := f.table.Load().names[name]
	if l == nil {
		return nil
	}
	return l.tree.implied
}

// Detach removes the layer's directory. Overlays and files that are in use go on
// reading; when the last of them is gone, the layer's data is let go.
func (f *FS) Detach(name string) error {
	f.mu.Lock()
	t := f.table.Load().clone()
	l := t.names[name]
	if l == nil || f.closed {
		err := ErrNotAttached
		if f.closed {
			err = ErrClosed
		}
		f.mu.Unlock()
		return fmt.Errorf("detach layer %s: %w", name, err)
	}
	delete(t.names, name)
	f.store(t)
	l.detached.Store(true)
	f.wg.Add(1) // for the notification: Close waits for it before the server goes
	f.mu.Unlock()

	// The kernel drops the directory and all below it that is not in use. It may
	// well not know it (ENOENT). This may wait for requests: no lock is held.
	f.server.entryGone(fuse.FUSE_ROOT_ID, name)
	f.wg.Done()
	f.release(l)
	return nil
}

// sweepEvery is how often the kernel is asked to forget detached layers, and layers
// are looked at that may have become complete.
const sweepEvery = 10 * time.Second

// sweeper sweeps until Close.
func (f *FS) sweeper() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.sweep()
			f.setReadAhead()
		case <-f.done:
			return
		}
	}
}

// sweep asks the kernel to forget what is not in use any more of the detached
// layers. It does not do so by itself when a file of theirs is closed, and Detach
// could not ask for files that were open then.
func (f *FS) sweep() {
	for _, l := range f.table.Load().slots {
		if !l.detached.Load() {
			continue
		}
		root := ref{l, 0}
		first, end := root.node().children()
		for c := first; c < end; c++ {
			f.server.entryGone(root.id(), l.tree.name(&l.tree.nodes[c]))
		}
	}
}

// release frees a detached layer that the kernel holds no more references on.
func (f *FS) release(l *layer) {
	if !l.detached.Load() || l.lookups.Load() > 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.table.Load().slots[l.slot] != l {
		return // Close frees it, or someone else has
	}
	t := f.table.Load().clone()
	t.changed = f.table.Load().changed // the root's names are the same
	delete(t.slots, l.slot)
	f.store(t)
	f.wg.Go(func() { f.free(l) }) // closing may wait for reads, and this may be a request
}

// free lets go of a layer's data.
func (f *FS) free(l *layer) {
	f.trees.used.Add(-l.tree.memory)
	if err := l.data.Close(); err != nil {
		f.opts.Log.Warn("layer data not closed", "layer", l.name, "error", err)
	}
}

// stop makes what is blocked give up.
func (f *FS) stop() { f.once.Do(func() { close(f.done) }) }

// Close unmounts and waits for the requests under way; blocked reads end with EINTR.
// What is still in use of the layers fails from then on with ENOTCONN.
func (f *FS) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return fmt.Errorf("unmount %s: %w", f.dir, ErrClosed)
	}
	f.closed = true
	f.mu.Unlock()
	f.stop()
	idle := make(chan struct{})
	go func() {
		f.wg.Wait()
		close(idle)
	}()
	// What notifies the kernel is best done while requests are answered. It waits
	// for a directory's lock, which a process may hold that waits for something else.
	ended := within(unmountWait, idle)
	err := f.unmount()
	if !ended && !within(unmountWait, idle) {
		err = errors.Join(err, fmt.Errorf("unmount %s: the kernel does not take a notification", f.dir))
	}
	for _, l := range f.table.Load().slots {
		f.free(l)
	}
	return err
}

// forever is the timeout of what does not change.
const forever = time.Duration(math.MaxInt64)

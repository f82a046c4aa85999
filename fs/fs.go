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
	// Patience is how long requests wait for a layer of FS.Expect; 0 means 60 s.
	Patience time.Duration
	// GuardPrivileged lets nobody read from files that are setuid or setgid, or have
	// capabilities, before [FS.Verified] says that their layer is what it should be.
	GuardPrivileged bool
	GuardWait       time.Duration // how long a read waits for that, at most; 0 means ten minutes
	// OnGuarded is called with the name of a layer whenever a read begins to wait for that. It must
	// be fast and safe for concurrent use; nil means nobody is told.
	OnGuarded func(name string)
	// maxWaiting is how many requests wait at a time for layers that are expected or not verified;
	// 0 means a quarter of maxLoops. Half as many may wait for one layer.
	maxWaiting int64
	// OnRequest is called for each request of the kernel that is about what layers hold, before
	// it is served: to look a layer up is not to use it. It must be fast and safe for concurrent use.
	OnRequest func()
	// Holder keeps the mount for the next process when this one ends, however it does.
	// With nil it ends with this process. With a Holder, the caller sees to it that no
	// other process serves the mount point.
	Holder Holder
}

// Holder keeps a mount's descriptor while no process serves the mount.
type Holder interface {
	// Held returns a descriptor that is held with a state of which match says yes, for
	// the caller to close, or -1 if there is none. An error says that it is not known.
	Held(match func(state []byte) bool) (fd int, err error)
	// Hold keeps a duplicate of fd, and state, in the place of what is held.
	Hold(fd int, state []byte) error
	// Drop lets go of what is held.
	Drop() error
}

// Origin says where a mount comes from.
type Origin int

// The origins.
const (
	Fresh    Origin = iota // nothing was mounted
	Resumed                // taken over from a process that is gone
	Replaced               // made after one that could not be taken over, whose users have lost it
)

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
	origin Origin
	record *record       // of a mount that this process has made
	held   bool          // Options.Holder has the mount
	begun  func()        // starts serving; only the first call does
	served chan struct{} // closed when the server has ended
	done   chan struct{} // closed by stop: blocked reads give up
	once   sync.Once
	wg     sync.WaitGroup
	stats  counters
	trees  budget

	expected expected
	waiting  atomic.Int64 // requests that Options.maxWaiting bounds
	panics   failures     // which of them to log

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
	order   sync.Once
	sorted  []string  // keys of names, once listed is called
	changed time.Time // modification time of the root
}

// layer is one attached layer.
type layer struct {
	name     string
	slot     uint32
	tree     *tree
	data     *span.Layer
	failures failures
	guard    *guard // nil if its files are not guarded
	// lookups is how many references the kernel holds on the layer's nodes. Of a layer
	// that another process served before it is not known: it counts from before then.
	lookups  atomic.Int64
	before   bool         // another process served it
	looked   atomic.Int64 // lookups ever
	detached atomic.Bool
}

// listed returns the attached names in order. Most tables are never listed: thousands of
// layers are attached one after the other when a node comes up.
func (t *table) listed() []string {
	t.order.Do(func() { t.sorted = slices.Sorted(maps.Keys(t.names)) })
	return t.sorted
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
// mount that Options.Holder has is taken over: requests wait then until Begin. Any
// other that a killed process left there is detached first.
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
	if opts.GuardWait <= 0 {
		opts.GuardWait = DefaultGuardWait
	}
	if opts.maxWaiting <= 0 {
		opts.maxWaiting = maxLoops / 4
	}
	if opts.Patience <= 0 {
		opts.Patience = DefaultPatience
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
	f.begun = sync.OnceFunc(func() {
		f.wg.Go(f.sweeper)
		go func() {
			defer close(f.served)
			f.server.serve()
		}()
	})
	if err := f.mount(); err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	if f.origin == Resumed {
		f.slots.resume()
	} else {
		f.begun()
	}
	return f, nil
}

// Origin returns where the mount comes from.
func (f *FS) Origin() Origin { return f.origin }

// Begin answers requests of a mount that was taken over, those first that the process
// before did not answer. What is neither attached by then nor expected is not there. On
// other mounts it does nothing.
func (f *FS) Begin() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return fmt.Errorf("serve %s: %w", f.dir, ErrClosed)
	}
	f.begun()
	return nil
}

// Attached is how a layer is attached.
type Attached struct {
	Path string // of its directory
	// Slot is to be given to the Attach of a process that takes over the mount, with
	// the same TOC.
	Slot    uint32
	Implied []string // what [Implied] returns for the TOC
}

// Attach makes the layer appear as directory name of the mount. It takes a handle of
// its own on data, whose Close stays the caller's. The layer gets the slot, unless that
// is 0 or another layer's. What the TOC says that cannot be served is ErrTOC; a tree
// there is no memory for is ErrMemory.
func (f *FS) Attach(name string, slot uint32, toc TOC, data *span.Layer) (_ Attached, err error) {
	if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
		return Attached{}, fmt.Errorf("attach layer %q: name is not a plain file name", name)
	}
	room := &loan{from: &f.trees}
	defer func() {
		if err != nil {
			room.keep(0)
		}
	}()
	t, err := newTree(toc, data.Size(), f.opts.UserXattr, room)
	if err != nil {
		return Attached{}, fmt.Errorf("attach layer %s: %w", name, err)
	}
	if err := data.Retain(); err != nil {
		return Attached{}, fmt.Errorf("attach layer %s: %w", name, err)
	}
	l := &layer{name: name, slot: slot, tree: t, data: data, before: slot != 0 && f.origin == Resumed}
	if f.opts.GuardPrivileged {
		l.guard = newGuard()
	}
	if err := f.attach(l); err != nil {
		return Attached{}, errors.Join(fmt.Errorf("attach layer %s: %w", name, err), data.Close())
	}
	f.setReadAhead()
	return Attached{Path: filepath.Join(f.dir, name), Slot: l.slot, Implied: t.implied}, nil
}

func (f *FS) attach(l *layer) (err error) {
	if l.slot != 0 && f.table.Load().slots[l.slot] == nil {
		err = f.slots.claim(l.slot)
	} else {
		l.slot, err = f.slots.next()
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return ErrClosed
	}
	t := f.table.Load().clone()
	if t.names[l.name] != nil || t.slots[l.slot] != nil {
		return ErrExists
	}
	t.slots[l.slot], t.names[l.name] = l, l
	f.store(t)
	f.expected.arrived(l.name)
	return nil
}

// store publishes a table. The caller holds f.mu.
func (f *FS) store(t *table) {
	f.table.Store(t)
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
	if l.guard != nil {
		l.guard.tell(ErrNotAttached) // there will be no other verdict
	}
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

// forever is the timeout of what does not change.
const forever = time.Duration(math.MaxInt64)

// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/fs"
	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/registry"
)

// Operation is a step that Options.OnOperation is told of. The values are the
// incumbent's metric labels.
type Operation string

// The operations.
const (
	OpMount      Operation = "mount"            // a layer attached; of the layer
	OpZTOCFetch  Operation = "ztoc_fetch"       // of the layer
	OpIndexFetch Operation = "soci_index_fetch" // of the index
)

// Options configures New.
type Options struct {
	Root     string           // directory of everything the snapshotter keeps
	Registry *registry.Client // where images are
	Log      *slog.Logger     // nil means slog.Default

	// Discover lists the versions of SOCI index to look for where none is named
	// explicitly; nil means V2 alone, empty none.
	Discover []index.Version

	MinLayerSize  int64         // compressed bytes; smaller layers are unpacked whole; 0 means none are
	LookupTimeout time.Duration // of one lookup of an image, or of one zTOC; 0 means 30 s
	Workers       int           // zTOCs of one image fetched at once; 0 means 16
	Unpacks       int           // layers downloaded and unpacked before containerd asks for them, at once; 0 means 3
	MaxUnpacked   int64         // uncompressed bytes of such layers that containerd has not asked for yet; 0 means 1 GiB

	Policy Policy // of what may be lazy

	FS    fs.Options   // of the mount; Log, StateDir, UserXattr, GuardPrivileged and OnRequest are set by New
	Spans span.Options // of the span store

	Background Background // of what nobody has asked for

	OnDecision   func(Decision)                                            // told of each decision, from many goroutines; nil means nobody
	OnOperation  func(op Operation, object digest.Digest, d time.Duration) // told of each operation that succeeded, likewise
	OnCompletion func(Completion)                                          // told of layers fetched to their end, likewise
}

// Limits of Options fields and of what New waits for.
const (
	defaultLookupTimeout = 30 * time.Second
	defaultWorkers       = 16
	defaultUnpacks       = 3
	defaultMaxUnpacked   = 1 << 30
	dbLockTimeout        = 5 * time.Second // another daemon may hold the same root
)

func (o Options) withDefaults() (Options, error) {
	if !filepath.IsAbs(o.Root) {
		return o, fmt.Errorf("root %q is not an absolute path", o.Root)
	}
	if o.MinLayerSize < 0 || o.LookupTimeout < 0 || o.Workers < 0 || o.Unpacks < 0 || o.MaxUnpacked < 0 {
		return o, errors.New("MinLayerSize, LookupTimeout, Workers, Unpacks and MaxUnpacked may not be negative")
	}
	if err := o.Policy.validate(); err != nil {
		return o, err
	}
	if o.Policy.GuardPrivileged && o.Background.Disable {
		return o, errors.New("Policy.GuardPrivileged without the background: no layer would ever be verified")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Discover == nil {
		o.Discover = []index.Version{index.V2}
	}
	if o.LookupTimeout == 0 {
		o.LookupTimeout = defaultLookupTimeout
	}
	if o.Workers == 0 {
		o.Workers = defaultWorkers
	}
	if o.Unpacks == 0 {
		o.Unpacks = defaultUnpacks
	}
	if o.MaxUnpacked == 0 {
		o.MaxUnpacked = defaultMaxUnpacked
	}
	if o.OnDecision == nil {
		o.OnDecision = func(Decision) {}
	}
	if o.Background.MaxQueue == 0 {
		o.Background.MaxQueue = defaultMaxQueue
	}
	if o.OnCompletion == nil {
		o.OnCompletion = func(Completion) {}
	}
	if o.OnOperation == nil {
		o.OnOperation = func(Operation, digest.Digest, time.Duration) {}
	}
	return o, nil
}

// Snapshotter is a snapshots.Snapshotter whose image layers are lazy where
// there is a SOCI index. It is safe for concurrent use.
type Snapshotter struct {
	inner overlaySnapshotter // for all that is not about lazy layers
	ms    *storage.MetaStore // inner's
	dir   string             // inner's
	opts  Options

	ports    ports
	layers   *layers
	images   *images
	stage    *stage
	tasks    *tasks
	copying  *tasks // of the metadata, for as long as the snapshotter is open
	hints    hints
	recorder *recorder

	// Held while a lazy snapshot is committed and while any is removed, so
	// that remote and the metadata agree whenever it is not held.
	mu     sync.Mutex
	remote map[string]*remoteSnapshot // committed lazy snapshots by name; guarded by mu
	payers map[string]string          // by layer key, the lazy snapshot whose usage it is; guarded by mu

	fs    *fs.FS      // the mount; nil in tests without one
	store *span.Store // of spans, likewise

	closeOnce sync.Once
	closeErr  error
}

// overlaySnapshotter is containerd's.
type overlaySnapshotter interface {
	snapshots.Snapshotter
	snapshots.Cleaner
}

// ports are the parts that tests replace.
type ports struct {
	mount   mounter
	begin   func() error                         // serves what mount was told of; nil: it does already
	expect  func(name string, slot uint32) error // has requests wait for a layer; nil: there are none before begin
	unmount func() error                         // ends that
	spans   spanStore
	repos   repositories
	fills   *atomic.Pointer[fills] // where to tell who completes layers, before begin; nil: nobody asks
}

// New opens the snapshotter at opts.Root, mounts its file system and restores
// the layers that were served when it was last closed, or died. It makes no
// request for that. A layer that cannot be restored is logged, and its users get
// errdefs.ErrUnavailable until it can be.
func New(ctx context.Context, opts Options) (*Snapshotter, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open snapshotter: %w", err)
	}
	s, err := open(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("open snapshotter at %s: %w", opts.Root, err)
	}
	return s, nil
}

func open(ctx context.Context, opts Options) (_ *Snapshotter, err error) {
	var undo []func() error
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()
	// The metadata is locked first: whoever else has it has the mount, too.
	if err := mendMetadata(opts.Root, dbLockTimeout, opts.Log); err != nil {
		return nil, err
	}
	ms, err := openMetadata(ctx, opts.Root, dbLockTimeout)
	if err != nil {
		return nil, err
	}
	undo = append(undo, ms.Close)
	var self atomic.Pointer[Snapshotter]
	opts.Spans.OnRoom = opts.onRoom
	opts.Spans.Uses = func() map[string]span.Use {
		if s := self.Load(); s != nil {
			return s.uses()
		}
		return nil
	}
	spans, err := span.Open(spansDir(opts.Root), opts.Spans)
	if err != nil {
		return nil, err
	}
	undo = append(undo, spans.Close)
	opts.FS.OnRequest = spans.Active
	opts.FS.GuardPrivileged = opts.Policy.GuardPrivileged
	var completing atomic.Pointer[fills]
	opts.FS.OnGuarded = func(name string) {
		if f := completing.Load(); f != nil {
			f.hasten(name)
		}
	}
	m, err := mountFS(mountPoint(opts.Root), opts)
	if err != nil {
		return nil, err
	}
	undo = append(undo, m.Close)
	s, err := newSnapshotter(ctx, opts, ms, ports{mount: m, begin: m.Begin, expect: m.Expect, unmount: m.Close, spans: spans, repos: registryRepositories(opts.Registry), fills: &completing})
	if err != nil {
		return nil, err
	}
	switch m.Origin() {
	case fs.Resumed:
		s.repairAll()
	case fs.Replaced:
		s.logLost(ctx)
	}
	s.fs, s.store = m, spans
	self.Store(s)
	return s, nil
}

func spansDir(root string) string { return filepath.Join(root, "soci", "spans") }

func newSnapshotter(ctx context.Context, opts Options, ms *storage.MetaStore, p ports) (*Snapshotter, error) {
	dir := filepath.Join(opts.Root, "snapshotter")
	states := filepath.Join(opts.Root, "soci", "layers")
	if err := os.MkdirAll(states, 0o700); err != nil {
		return nil, err
	}
	wholeDir := filepath.Join(opts.Root, "soci", "downloads")
	if err := emptyDir(wholeDir); err != nil {
		opts.Log.Warn("layers whose registry ignores ranges are not kept", "path", wholeDir, "error", err)
		wholeDir = ""
	}
	inner, err := overlay.NewSnapshotter(dir, overlay.WithMetaStore(ms), overlay.AsynchronousRemove)
	if err != nil {
		return nil, err
	}
	ov, ok := inner.(overlaySnapshotter)
	if !ok {
		return nil, errors.New("overlay snapshotter has no Cleanup")
	}
	t := newTasks(ctx)
	s := &Snapshotter{
		stage:  newStage(filepath.Join(dir, "unpack"), opts, t),
		tasks:  t,
		inner:  ov,
		ms:     ms,
		dir:    dir,
		opts:   opts,
		ports:  p,
		remote: make(map[string]*remoteSnapshot),
		payers: make(map[string]string),
		hints:  newHints(),
		layers: &layers{
			states: stateDir(states), policy: opts.Policy, mount: p.mount, spans: p.spans, repos: p.repos,
			spansDir: spansDir(opts.Root),
			wholeDir: wholeDir,
			m:        make(map[string]*layer),
			fills:    &fills{opts: opts.Background, tasks: t, log: opts.Log, tell: opts.OnCompletion, after: time.After},
		},
		images: &images{
			repos: p.repos, policy: opts.Policy, workers: opts.Workers, timeout: opts.LookupTimeout,
			log: opts.Log, observe: opts.OnOperation, tasks: t, flights: make(map[imageKey]*flight),
		},
	}
	s.layers.fills.done = s.layers.completed
	if p.fills != nil {
		p.fills.Store(s.layers.fills)
	}
	s.recorder = &recorder{
		profiles: index.ProfileDir(filepath.Join(opts.Root, "soci", "profiles")), tasks: t, log: opts.Log, tick: everyTick,
		active: make(map[digest.Digest]*recording),
	}
	for _, v := range opts.Discover {
		s.images.find.V1 = s.images.find.V1 || v == index.V1
		s.images.find.V2 = s.images.find.V2 || v == index.V2
	}
	if err := s.restore(ctx); err != nil {
		return nil, err
	}
	s.sweepFiles()
	s.copying = newTasks(ctx)
	s.copying.run((&copies{ms: ms, path: filepath.Join(dir, metadataFile+copySuffix), log: opts.Log}).run)
	return s, nil
}

// upper is the directory, or the link to it, that holds what snapshot id adds to its parent.
func (s *Snapshotter) upper(id string) string { return filepath.Join(s.dir, "snapshots", id, "fs") }

// uppers are the directories of the snapshots ids.
func (s *Snapshotter) uppers(ids []string) []string {
	dirs := make([]string, len(ids))
	for i, id := range ids {
		dirs[i] = s.upper(id)
	}
	return dirs
}

// Stat returns what is known of the snapshot key.
func (s *Snapshotter) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	return s.inner.Stat(ctx, key)
}

// Update changes a snapshot's labels.
func (s *Snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	return s.inner.Update(ctx, info, fieldpaths...)
}

// Commit makes the active snapshot key the committed snapshot name.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return s.roomy(ctx, func() error { return s.inner.Commit(ctx, name, key, opts...) })
}

// Walk calls fn for each snapshot that the filters take.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return s.inner.Walk(ctx, fn, filters...)
}

// View makes a read-only snapshot of parent.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	if err := s.available(ctx, parent); err != nil {
		return nil, fmt.Errorf("view %q: %w", key, err)
	}
	return s.inner.View(ctx, key, parent, opts...)
}

// Mounts returns the mounts of the active snapshot or view key. The error
// matches errdefs.ErrUnavailable if a layer below it is not being served.
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	if err := s.available(ctx, key); err != nil {
		return nil, fmt.Errorf("mounts of %q: %w", key, err)
	}
	return s.inner.Mounts(ctx, key)
}

// Layers returns the counters of the layers that are being served.
func (s *Snapshotter) Layers() []LayerStats { return s.layers.stats() }

// FS returns the counters of the mount, and whether it was taken over.
func (s *Snapshotter) FS() (fs.Stats, fs.Origin) { return s.fs.Stats(), s.fs.Origin() }

// Close closes the snapshotter, which must not be in use. A mount that Options.FS.Holder
// has stays, with all that uses it, for the next New; any other is taken away. What is on
// disk stays.
func (s *Snapshotter) Close() error {
	s.closeOnce.Do(func() {
		// First: what fails from here on is not to be a reader's error.
		err := s.ports.unmount()
		s.images.close()
		s.tasks.close()
		s.copying.close()
		s.closeErr = errors.Join(err, s.layers.close(), s.inner.Close())
	})
	return s.closeErr
}

// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

// Bounds of what is unpacked before containerd asks for it.
const (
	stageTTL     = 10 * time.Minute // unpacked layers wait so long for the next Prepare of their image
	maxStageDirs = 1 << 18          // directories of one layer
)

// errStage says that a layer is not one to be unpacked ahead.
var errStage = errors.New("not unpacked ahead")

// stage is where layers that will be local are downloaded and unpacked before containerd
// asks for them, several at once: it asks for one after the other.
type stage struct {
	dir    string
	tasks  *tasks
	log    *slog.Logger
	policy Policy
	slots  *semaphore.Weighted                  // layers unpacked at once
	room   atomic.Int64                         // bytes of tar that more may be unpacked of
	max    int64                                // what room was in the beginning
	off    atomic.Bool                          // dir is of no use: not there, or on another file system than snapshots
	number atomic.Int64                         // of the next directory
	after  func(time.Duration) <-chan time.Time // time.After
}

// newStage empties dir: what is there was left by a daemon that died. Where that is not possible
// nothing is unpacked ahead.
func newStage(dir string, opts Options, t *tasks) *stage {
	s := &stage{dir: dir, tasks: t, log: opts.Log, policy: opts.Policy, slots: semaphore.NewWeighted(int64(opts.Unpacks)), max: opts.MaxUnpacked, after: time.After}
	s.room.Store(opts.MaxUnpacked)
	if err := emptyDir(dir); err != nil {
		s.off.Store(true)
		s.log.Warn("no layers are unpacked ahead", "path", dir, "error", err)
	}
	return s
}

// pull is the layers of one image that are unpacked ahead. It ends with the Prepare of
// the image's last layer, or when the image is not prepared any further.
type pull struct {
	stage   *stage
	layers  []*staged
	touched chan struct{} // has room for one
	ended   chan struct{}
	end     func()       // may be called again and again
	takers  atomic.Int32 // Prepares that wait for a layer
}

// staged is a layer that is unpacked ahead.
type staged struct {
	n      int // of the layer in the image
	blob   blob
	digest digest.Digest
	diffID digest.Digest

	mu    sync.Mutex
	begun bool // or never to be: guarded by mu
	taken bool // guarded by mu

	done chan struct{} // closed when the unpacking has ended
	// What follows is set when done is closed.
	dir     string // "" if there is nothing
	usage   snapshots.Usage
	implied []string // directories that the layer only implies
	size    int64    // of the tar, taken from stage.room
}

// begin begins to unpack layers. The pull is to be ended.
func (s *stage) begin(layers []*staged) *pull {
	p := &pull{stage: s, layers: layers, touched: make(chan struct{}, 1), ended: make(chan struct{})}
	p.end = sync.OnceFunc(func() { close(p.ended) })
	s.tasks.run(p.run)
	return p
}

// touch says that the image is being prepared still.
func (p *pull) touch() {
	select {
	case p.touched <- struct{}{}:
	default:
	}
}

// over reports whether the pull has ended.
func (p *pull) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// run unpacks the layers, waits for the end and deletes what nobody took.
func (p *pull) run(ctx context.Context) {
	defer p.end()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, l := range p.layers { // in the order in which they will be asked for
			if p.stage.slots.Acquire(ctx, 1) != nil {
				return
			}
			wg.Go(func() {
				defer p.stage.slots.Release(1)
				p.stage.unpack(ctx, l)
			})
		}
	})
	p.wait(ctx)
	p.end()
	cancel()
	wg.Wait()
	for _, l := range p.layers {
		if l.claim() {
			p.stage.discard(l)
		}
	}
}

// wait returns when the pull is over. It is not while a Prepare waits, however long that takes.
func (p *pull) wait(ctx context.Context) {
	for {
		select {
		case <-p.touched:
		case <-p.stage.after(stageTTL):
			if p.takers.Load() == 0 {
				return
			}
		case <-p.ended:
			return
		case <-ctx.Done():
			return
		}
	}
}

// take returns layer n of the image, unpacked, which is the caller's to install or discard;
// nil if the caller has to unpack it.
func (p *pull) take(ctx context.Context, n int) *staged {
	i := slices.IndexFunc(p.layers, func(l *staged) bool { return l.n == n })
	if i < 0 {
		return nil
	}
	l := p.layers[i]
	if l.start() {
		close(l.done) // it has not begun: there is no use in waiting for those before it
		return nil
	}
	p.takers.Add(1)
	defer p.touch() // the image's next Prepare comes when this one is over
	defer p.takers.Add(-1)
	select {
	case <-l.done:
	case <-ctx.Done():
		return nil
	}
	if l.dir == "" || !l.claim() {
		return nil
	}
	return l
}

// start reports whether the caller is the one to unpack the layer, or to say that nobody does.
func (l *staged) start() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.begun
	l.begun = true
	return !was
}

// claim reports whether what was unpacked is the caller's.
func (l *staged) claim() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.taken
	l.taken = true
	return !was
}

// unpack unpacks a layer. An error is for the Prepare of the layer to find again.
func (s *stage) unpack(ctx context.Context, l *staged) {
	if !l.start() {
		return
	}
	defer close(l.done)
	start := time.Now()
	dir := filepath.Join(s.dir, strconv.FormatInt(s.number.Add(1), 10))
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		err = contained(func() error { return s.unpackTo(ctx, l, dir) })
	}
	if err == nil {
		l.dir = dir
		s.log.Debug("unpacked layer ahead", "layer", l.digest.String(), "dur", time.Since(start))
		return
	}
	s.room.Add(l.size)
	l.size = 0
	s.log.Debug("layer was not unpacked ahead", "layer", l.digest.String(), "error", err)
	if err := os.RemoveAll(dir); err != nil {
		s.log.Warn("remove unpacked layer", "layer", l.digest.String(), "error", err)
	}
}

// unpackTo unpacks a layer to dir, below nothing. Unpacked above its parents it would
// differ in the directories that it only implies; those are noted.
func (s *stage) unpackTo(ctx context.Context, l *staged, dir string) error {
	described := make(map[string]bool) // directories, and whether an entry says what they are
	usage, err := unpack(ctx, l.blob, l.diffID, destination{dir: dir, look: s.policy.look(func(h *tar.Header, read int64) error {
		if h.Size < 0 || h.Size > s.max-read { // a sparse file may say anything
			return fmt.Errorf("%q of %d bytes is too much: %w", h.Name, h.Size, errStage)
		}
		if grown := read + h.Size - l.size; grown > 0 {
			l.size += grown
			if s.room.Add(-grown) < 0 {
				return fmt.Errorf("too much is unpacked already: %w", errStage)
			}
		}
		if note(described, h); len(described) > maxStageDirs {
			return fmt.Errorf("more than %d directories: %w", maxStageDirs, errStage)
		}
		return nil
	})})
	if err != nil {
		return err
	}
	for d, ok := range described {
		if ok {
			continue
		}
		if st, err := os.Lstat(filepath.Join(dir, d)); err != nil || !st.IsDir() {
			return fmt.Errorf("%q leads elsewhere: %w", d, errStage)
		}
		l.implied = append(l.implied, d)
	}
	slices.Sort(l.implied)
	l.usage = usage
	return nil
}

// note notes the directory that h is, and those that it lies in.
func note(described map[string]bool, h *tar.Header) {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if h.Typeflag == tar.TypeDir && name != "" {
		described[name] = true
	}
	for {
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			return
		}
		name = name[:i]
		if _, ok := described[name]; ok {
			return // and so are those that it lies in
		}
		described[name] = false
	}
}

// install makes the layer unpacked ahead the content of upper, the empty upper directory
// of a snapshot above parents. Where the parents make a difference to the layer the error
// is errStage's. As long as upper is there and empty, the layer can be unpacked to it whatever the error.
func (s *stage) install(ctx context.Context, l *staged, upper string, parents []string) error {
	if err := checkImplied(ctx, l.implied, parents); err != nil {
		return fmt.Errorf("%w: %w", errStage, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(upper, &st); err != nil {
		return &os.PathError{Op: "stat", Path: upper, Err: err}
	}
	if err := os.Lchown(l.dir, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(l.dir, st.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: l.dir, Err: err}
	}
	err := exchange(l.dir, upper)
	if errors.Is(err, unix.EXDEV) && !s.off.Swap(true) {
		s.log.Warn("snapshots are on another file system: no more layers are unpacked ahead", "error", err)
	}
	return err
}

// discard deletes what is left of a layer that has been taken, and makes room.
func (s *stage) discard(l *staged) {
	if l.dir == "" {
		return
	}
	s.room.Add(l.size)
	if err := os.RemoveAll(l.dir); err != nil {
		s.log.Warn("remove unpacked layer", "layer", l.digest.String(), "error", err)
	}
}

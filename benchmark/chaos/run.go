// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/benchmark/chaos/internal/check"
	"github.com/seekoci/seekoci/benchmark/internal/node"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// What the daemon is told, and what follows from it.
const (
	eioAfter = 8 * time.Second  // without a daemon, until the holder answers with EIO
	awayFor  = 10 * time.Second // of a fault that is to be longer than that
)

// options are what the command line says.
type options struct {
	seed       uint64
	length     time.Duration // of the faults; 0 means as long as it takes for so many
	faults     int64         // 0 means as many as come
	kinds      []kind
	often      kind   // comes ten times as often; "" is none
	bin        string // directory of soci, soci-snapshotter-grpc and checker
	containerd string // directory of containerd, "" for the one on PATH
	all        bool   // failures that are explained are said, too
	race       bool   // the daemon has the race detector: it is larger and slower
}

// run is one run.
type run struct {
	opts     options
	dir      string
	checker  string
	report   *report
	images   []*content
	registry *registrytest.Server
	proxy    *proxy
	node     *node.Node
	fleet    *fleet
	line     timeline
	disk     disk
	mirror   *proxy       // another way to the registry, which daemons of some phases try first
	small    atomic.Bool  // daemons that start now have a small cache
	evicts   atomic.Bool  // the one that runs, or ran last, has
	mirrored bool         // and the mirror; of the node's lane
	volume   string       // where the daemon's disk is mounted
	debug    string       // host:port of the daemon's profiles
	pid      atomic.Int64 // of the daemon, 0 while it does not run
	base     resources
	draining sync.Mutex   // of the checkers' logs
	peace    sync.RWMutex // held while node or registry are being hurt, exclusively by those who need a calm
}

// diskSize is how large the daemon's disk is: a few times what it holds when all is there.
const diskSize = 2 << 30

// do makes everything, lets the faults come, and looks at what is left.
func (r *run) do(ctx context.Context) (err error) {
	if err := r.mountVolume(ctx); err != nil {
		return fmt.Errorf("make the disk: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(r.volume, unix.MNT_DETACH)) }()
	r.registry = registrytest.New(registrytest.Options{Dir: filepath.Join(r.dir, "registry"), Redirect: true, Auth: registrytest.AuthBearer})
	defer r.registry.Close()
	r.report.phase("making images")
	if r.proxy, err = newProxy(r.registry.Host(), r.registry.SecondHost(), r.opts.seed); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.proxy.Close()) }()
	if r.mirror, err = newProxy(r.registry.Host(), r.registry.SecondHost(), r.opts.seed+1); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.mirror.Close()) }()
	if err := r.makeImages(ctx); err != nil {
		return fmt.Errorf("make the images: %w", err)
	}
	r.report.phase("starting a node")
	if err := r.startNode(ctx); err != nil {
		return err
	}
	closed := false
	defer func() {
		if !closed {
			err = errors.Join(err, r.node.Close(ctx))
		}
	}()
	r.report.phase("starting containers")
	if err := r.prepare(ctx); err != nil {
		return err
	}
	if err := r.chaos(ctx); err != nil {
		return fmt.Errorf("%w; the daemon says:\n%s", err, r.node.SnapshotterLogTail())
	}
	if err := r.allLocal(); err != nil {
		return err
	}
	r.report.phase("removing everything")
	r.cleanUp(ctx)
	r.report.phase("looking for leaks")
	r.leaks(ctx)
	closed = true
	r.leaksOfClose(ctx)
	return r.readLog()
}

// allLocal holds that nearly all files are on disk as far as the judge can tell, as all have been read by
// now: or it could not tell before. Pages that no fault has had the kernel forget may be all there is of some.
func (r *run) allLocal() error {
	had, err := r.disk.look()
	if err != nil {
		return err
	}
	r.report.add("lazy layers in the end", int64(len(had.layers)))
	local, all := 0, 0
	for _, c := range r.images {
		for _, path := range c.paths {
			if all++; had.has(c.name, path, 0, 1<<40) {
				local++
			}
		}
	}
	if local < all*9/10 {
		r.report.fault("of %d files that were read only %d are on disk, as their layers' states say", all, local)
	}
	return nil
}

// chaos lets the faults come, and then has every container look at everything once more.
func (r *run) chaos(ctx context.Context) error {
	background, end := context.WithCancel(ctx)
	defer end()
	var watchers errgroup.Group
	watchers.Go(func() error { r.fleet.follow(background); return nil })
	watchers.Go(func() error { r.sample(background); return nil })
	keeping, stopKeeping := context.WithCancel(ctx)
	defer stopKeeping()
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		r.fleet.keep(keeping)
	}()

	r.report.phase("faults")
	begin := time.Now()
	err := r.lanes(ctx)
	r.report.phase("all is well again")
	r.report.note("length", time.Since(begin).Round(time.Second).String())
	for kind, n := range r.proxy.spoilt() {
		r.report.faults(kind, n)
	}
	for kind, n := range r.mirror.spoilt() {
		r.report.faults(kind, n)
		r.report.add("answers spoilt that were the mirror's", n)
	}
	if err == nil && ctx.Err() == nil {
		err = r.lastStart(ctx)
	}
	if err == nil && ctx.Err() == nil {
		err = r.fleet.fit(ctx, 2*time.Minute)
	}
	stopKeeping()
	<-kept
	r.report.phase("the last pass")
	if err == nil && ctx.Err() == nil {
		if late := r.fleet.finish(ctx, 4*time.Minute); late != nil {
			r.report.fault("%v", late)
		}
	}
	end()
	return errors.Join(err, watchers.Wait(), ctx.Err())
}

// lanes runs all lanes until the time is over or there were faults enough.
func (r *run) lanes(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	gctx, enough := context.WithCancel(gctx)
	defer enough()
	if r.opts.length > 0 {
		timer := time.AfterFunc(r.opts.length, enough)
		defer timer.Stop()
	}
	do := map[lane]func(context.Context, step) error{nodeLane: r.doNode, registryLane: r.doRegistry, userLane: r.doUser}
	for _, l := range lanes(r.opts.kinds) {
		s := newSchedule(r.opts, l)
		g.Go(func() error {
			for {
				st := s.next()
				if wait(gctx, st.pause); gctx.Err() != nil {
					return nil
				}
				if err := r.step(gctx, l, st, do[l]); err != nil {
					return fmt.Errorf("%s: step %v: %w", l, st, err)
				}
				if l != registryLane || st.kind == expire {
					r.report.faults(st.kind, 1)
				}
				if r.opts.faults > 0 && r.injected() >= r.opts.faults {
					enough()
				}
			}
		})
	}
	return g.Wait()
}

// step does one step of a lane, unless somebody needs a calm.
func (r *run) step(ctx context.Context, l lane, s step, do func(context.Context, step) error) error {
	if l != userLane {
		r.peace.RLock()
		defer r.peace.RUnlock()
	}
	return do(ctx, s)
}

// injected is how many faults there were so far.
func (r *run) injected() int64 {
	sum := r.report.injected()
	for _, p := range []*proxy{r.proxy, r.mirror} {
		for _, n := range p.spoilt() {
			sum += n
		}
	}
	return sum
}

// commandLimit is how long a command may take: it may wait for a daemon to come back, and for a registry.
const commandLimit = 2 * time.Minute

// command runs a command and judges its failure. It goes on when ctx is over: what is begun is brought to its end.
func (r *run) command(ctx context.Context, c command, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandLimit)
	defer cancel()
	begin := check.Now()
	err := do(ctx)
	if err != nil {
		r.report.command(c, err, r.line.explainCommand(c, begin, check.Now()))
	}
	return err
}

// How long a command is tried, after how long it gets a calm, and what that begins with: containerd
// waits for seconds before it tries again to reach a snapshotter that was down.
const (
	insistFor = 5 * time.Minute
	calmAfter = 40 * time.Second
	calmFirst = 3 * time.Second
)

// insist runs a command until it succeeds, for a while.
func (r *run) insist(ctx context.Context, c command, do func(context.Context) error) error {
	begin := time.Now()
	for {
		err := r.attempt(ctx, c, do, time.Since(begin) > calmAfter)
		if err == nil {
			return nil
		}
		if time.Since(begin) > insistFor {
			return fmt.Errorf("%s, again and again: %w", c, err)
		}
		wait(context.WithoutCancel(ctx), 100*time.Millisecond)
	}
}

// attempt runs a command once, with faults going on or in a calm.
func (r *run) attempt(ctx context.Context, c command, do func(context.Context) error, calm bool) error {
	if calm {
		r.peace.Lock()
		defer r.peace.Unlock()
		r.report.add("calms for a command that could not be done", 1)
		wait(context.WithoutCancel(ctx), calmFirst)
	}
	return r.command(ctx, c, do)
}

// count is how many containers run that are fit.
func (f *fleet) count() int {
	n := 0
	f.each(func(b *box) {
		if b.lostAt == 0 && !b.replace {
			n++
		}
	})
	return n
}

// fit waits until all slots have a container that is fit.
func (f *fleet) fit(ctx context.Context, limit time.Duration) error {
	for end := time.Now().Add(limit); time.Now().Before(end) && ctx.Err() == nil; {
		if f.count() == len(f.slots) {
			return nil
		}
		wait(ctx, 50*time.Millisecond)
	}
	return errors.Join(ctx.Err(), fmt.Errorf("only %d of %d containers run %v after the last fault", f.count(), len(f.slots), limit))
}

// kindsOf are the kinds of a lane.
func kindsOf(l lane) []kind {
	var kinds []kind
	for _, s := range shares() {
		if s.lane == l && !slices.Contains(kinds, s.kind) {
			kinds = append(kinds, s.kind)
		}
	}
	return kinds
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/benchmark/chaos/internal/check"
)

// doNode does a step of the node's lane. Its error ends the run.
func (r *run) doNode(ctx context.Context, s step) error {
	if r.node.SnapshotterEnded() {
		r.report.fault("the daemon has ended by itself; its log says:\n%s", r.node.SnapshotterLogTail())
		if err := r.up(ctx, s.seed); err != nil {
			return err
		}
	}
	r.phaseOf(s)
	switch s.kind {
	case killDaemon, awayDaemon:
		return r.restart(ctx, s, unix.SIGKILL, nil)
	case termDaemon:
		return r.restart(ctx, s, unix.SIGTERM, nil)
	case intDaemon:
		return r.restart(ctx, s, unix.SIGINT, nil)
	case coldStart:
		return r.restart(ctx, s, unix.SIGKILL, r.forgetSpans)
	case corruptFiles:
		return r.corrupt(ctx, s)
	case killHolder:
		return r.killHolder(ctx)
	case killBoth:
		return r.killBoth(ctx, s)
	case killContainerd:
		return r.killContainerd(ctx, s)
	case fullDisk:
		return r.fillDisk(ctx, s)
	}
	return fmt.Errorf("no way to do %s", s.kind)
}

// restart ends the daemon, does what is to be done without it, and starts it.
func (r *run) restart(ctx context.Context, s step, sig unix.Signal, without func() error) error {
	end := r.line.begin(noDaemon, nil)
	defer end()
	r.pid.Store(0)
	if err := r.node.StopSnapshotter(sig); err != nil {
		r.report.fault("%v", err)
	}
	if without != nil {
		if err := without(); err != nil {
			return err
		}
	}
	wait(ctx, s.hold)
	return r.up(ctx, s.seed)
}

// up starts the daemon, with a configuration that depends on the seed and the phase.
func (r *run) up(ctx context.Context, seed uint64) error {
	r.node.SetConfig(r.daemonConfig(seed))
	r.evicts.Store(r.small.Load())
	if r.evicts.Load() {
		r.line.forget() // whatever was there may go from now on
		r.report.add("starts with a small cache", 1)
	}
	begin := time.Now()
	if err := r.node.StartSnapshotter(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("start of the daemon: %w", err)
	}
	r.report.most("slowest start of the daemon", time.Since(begin))
	r.pid.Store(int64(r.node.SnapshotterPid()))
	return nil
}

// holderWait is how long a daemon may take to have a holder again.
const holderWait = 20 * time.Second

// holder waits until the mount is held by another process than old, and returns its id, 0 if that takes too long.
func (r *run) holder(ctx context.Context, old int) (int, error) {
	for end := time.Now().Add(holderWait); time.Now().Before(end); {
		pid, err := r.node.HolderPid()
		if err != nil {
			return 0, err
		}
		if pid != 0 && pid != old {
			return pid, nil
		}
		wait(context.WithoutCancel(ctx), 5*time.Millisecond)
	}
	r.report.fault("there is no holder %v after the last one has ended", holderWait)
	return 0, nil
}

func (r *run) killHolder(ctx context.Context) error {
	pid, err := r.holder(ctx, 0)
	if err != nil || pid == 0 {
		return err
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return fmt.Errorf("kill the holder: %w", err)
	}
	_, err = r.holder(ctx, pid)
	return err
}

// killBoth takes the mount from everybody.
func (r *run) killBoth(ctx context.Context, s step) error {
	holder, err := r.holder(ctx, 0)
	if err != nil || holder == 0 {
		return err
	}
	end := r.line.begin(noDaemon, nil)
	defer end()
	defer r.line.begin(lostMount, nil)()
	r.pid.Store(0)
	r.fleet.lose(check.Now())
	// The daemon is not to notice that the holder is gone.
	err = errors.Join(unix.Kill(r.node.SnapshotterPid(), unix.SIGSTOP), unix.Kill(holder, unix.SIGKILL), r.node.StopSnapshotter(unix.SIGKILL))
	if err != nil {
		return fmt.Errorf("kill daemon and holder: %w", err)
	}
	wait(ctx, s.hold)
	return r.up(ctx, s.seed)
}

func (r *run) killContainerd(ctx context.Context, s step) error {
	defer r.line.begin(noContainerd, nil)()
	sig := unix.SIGKILL
	if s.seed%4 == 0 {
		sig = unix.SIGTERM
	}
	if err := r.node.StopContainerd(sig); err != nil {
		return err
	}
	wait(ctx, s.hold)
	return r.node.StartContainerd(context.WithoutCancel(ctx))
}

// spanDirs are the directories of the layers' spans.
func (r *run) spanDirs() ([]string, error) {
	return filepath.Glob(filepath.Join(r.node.SnapshotterRoot(), "soci/spans/*"))
}

// forgetSpans has the next daemon fetch all again, and the kernel ask for all again.
func (r *run) forgetSpans() error {
	r.line.forget()
	dirs, err := r.spanDirs()
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if err := os.Remove(filepath.Join(d, "state")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return dropAll()
}

// dropAll has the kernel forget all names and pages that are on disk as well; the others are not waited for.
func dropAll() error { return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0) }

// fillDisk leaves no room on the daemon's disk for a while.
func (r *run) fillDisk(ctx context.Context, s step) (err error) {
	r.line.forget()
	defer r.line.begin(noSpace, nil)()
	filler := filepath.Join(r.volume, "filler")
	f, err := os.Create(filler)
	if err != nil {
		return err
	}
	defer func() {
		r.line.forget()
		err = errors.Join(err, f.Close(), os.Remove(filler))
	}()
	var st unix.Statfs_t
	if err := unix.Statfs(r.volume, &st); err != nil {
		return fmt.Errorf("free space of %s: %w", r.volume, err)
	}
	// What root may have, too; others use it meanwhile, so that the end comes in small pieces.
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bfree)*st.Bsize*9/10); err != nil && !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("fill %s: %w", r.volume, err)
	}
	if _, err := f.Seek(0, 2); err != nil {
		return err
	}
	for end := time.Now().Add(s.hold); time.Now().Before(end) && ctx.Err() == nil; {
		_, err := f.Write(make([]byte, 64<<10))
		if errors.Is(err, unix.ENOSPC) {
			wait(ctx, 10*time.Millisecond) // whatever becomes free is taken at once
			continue
		}
		if err != nil {
			return fmt.Errorf("fill %s: %w", r.volume, err)
		}
	}
	return nil
}

// wait waits, but not beyond ctx.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

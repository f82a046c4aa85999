// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/benchmark/internal/node"
)

// resources is what the daemon takes.
type resources struct {
	mounts     []string
	files      int            // open in the daemon, pipes excepted
	open       map[string]int // of files, how many of each kind
	held       int            // open in the holder
	goroutines int            // of the daemon
	disk       int64          // bytes below its root
}

// What it may take more in the end than in the beginning: connections that are kept, pages of the
// metadata database, records of starts.
const (
	moreFiles      = 10
	mostPipes      = 2 * 64 // of the loops that serve requests, which keep theirs
	moreGoroutines = 20
	moreDisk       = 4 << 20
	mostMemory     = 256 << 20
	mostRace       = 1 << 30 // with the race detector
	settleTime     = 60 * time.Second
)

// freeAddress is an address that nobody listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// resources looks at what the daemon takes now.
func (r *run) resources(ctx context.Context) (res resources, err error) {
	if res.mounts, err = r.mounts(); err != nil {
		return res, err
	}
	files, err := node.OpenFiles(r.node.SnapshotterPid())
	if err != nil {
		return res, err
	}
	holder, err := r.node.HolderPid()
	if err != nil {
		return res, err
	}
	held, err := node.OpenFiles(holder)
	if err != nil {
		return res, err
	}
	res.held, res.open = len(held), group(files)
	res.files = len(files) - res.open["pipe"]
	if res.goroutines, err = r.goroutines(ctx); err != nil {
		return res, err
	}
	res.disk, err = node.DiskUsage(r.node.SnapshotterRoot())
	return res, err
}

// group counts open files by their names, without the numbers of sockets and pipes.
func group(files []string) map[string]int {
	m := make(map[string]int)
	for _, f := range files {
		kind, _, _ := strings.Cut(f, ":[")
		m[kind]++
	}
	return m
}

// mounts are those of the node and on the daemon's disk.
func (r *run) mounts() ([]string, error) {
	a, err := node.Mounts(r.node.Dir)
	if err != nil {
		return nil, err
	}
	b, err := node.Mounts(r.volume)
	return append(a, b...), err
}

// profile asks the daemon for the profile of its goroutines.
func (r *run) profile(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.debug+"/debug/pprof/goroutine?debug=1", nil)
	if err != nil {
		return "", err
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	res, err := c.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask the daemon for its goroutines: %w", err)
	}
	defer res.Body.Close()
	p, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	return string(p), err
}

func (r *run) goroutines(ctx context.Context) (n int, err error) {
	p, err := r.profile(ctx)
	if err != nil {
		return 0, err
	}
	if _, err := fmt.Sscanf(p, "goroutine profile: total %d", &n); err != nil {
		return 0, fmt.Errorf("profile of goroutines: %q: %w", p[:min(len(p), 100)], err)
	}
	return n, nil
}

// sample looks at the memory of daemon and holder, and at what the daemon has open, until ctx is over.
func (r *run) sample(ctx context.Context) {
	for ctx.Err() == nil {
		if pid := int(r.pid.Load()); pid != 0 {
			if n, err := node.Resident(pid); err == nil {
				r.report.peak("daemon, resident bytes", n)
			}
			if files, err := node.OpenFiles(pid); err == nil {
				r.report.peak("daemon, open files", int64(len(files)))
			}
		}
		wait(ctx, 500*time.Millisecond)
	}
}

// cleanUp removes all containers and images, as one who wants the node's disk back, and whatever
// commands that were interrupted have left.
func (r *run) cleanUp(ctx context.Context) {
	for slot := range r.fleet.slots {
		r.fleet.discard(ctx, slot)
	}
	list := func(args ...string) []string {
		out, err := r.node.Ctr(ctx, args...)
		if err != nil {
			r.report.leak("%v", err)
		}
		return strings.Fields(out)
	}
	for _, id := range list("container", "list", "--quiet") {
		if err := r.fleet.remove(ctx, id); err != nil {
			r.report.leak("%v", err)
		}
	}
	for _, id := range list("leases", "list", "--quiet") { // of pulls that containerd's end has interrupted
		if _, err := r.node.Ctr(ctx, "leases", "delete", id); err != nil {
			r.report.leak("%v", err)
		}
	}
	if err := r.letGo(ctx); err != nil {
		r.report.leak("%v", err)
	}
	for _, name := range list("image", "list", "--quiet") {
		if _, err := r.node.Ctr(ctx, "image", "rm", "--sync", name); err != nil {
			r.report.leak("%v", err)
		}
	}
}

// letGo does what the daemon's log asks an operator for when its metadata was restored and knows less than
// there is on disk, as it does of a snapshot that was being made when it was killed: no container needs that now.
func (r *run) letGo(ctx context.Context) error {
	err := os.Remove(filepath.Join(r.disk.root, "snapshotter/metadata.db.held"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	r.report.note("held", "something, after a restoration of the metadata; let go in the end")
	return r.restart(ctx, step{seed: 1}, unix.SIGTERM, nil)
}

// leaks waits for what the daemon takes to come back to what it took at first, and reports what does not.
func (r *run) leaks(ctx context.Context) {
	// Connections that are kept are no leak, and are ended by their other end.
	if err := errors.Join(r.proxy.stop(), r.proxy.start(), r.mirror.stop(), r.mirror.start()); err != nil {
		r.report.leak("%v", err)
	}
	var found []string
	for end := time.Now().Add(settleTime); time.Now().Before(end) && ctx.Err() == nil; {
		var err error
		if found, err = r.more(ctx); err != nil {
			found = []string{err.Error()}
		}
		if len(found) == 0 {
			break
		}
		wait(ctx, 200*time.Millisecond)
	}
	for _, f := range found {
		r.report.leak("%s", f)
	}
	if len(found) > 0 {
		if p, err := r.profile(ctx); err == nil {
			r.report.log("goroutines of the daemon:\n" + p)
		}
	}
	bound := int64(mostMemory)
	if r.opts.race {
		bound = mostRace
	}
	if n := r.report.peakOf("daemon, resident bytes"); n > bound {
		r.report.leak("memory: %d MiB resident, more than %d", n>>20, bound>>20)
	}
}

// more says what the daemon takes more than it did at first.
func (r *run) more(ctx context.Context) ([]string, error) {
	now, err := r.resources(ctx)
	if err != nil {
		return nil, err
	}
	snapshots, err := r.node.Ctr(ctx, "snapshot", "--snapshotter", node.Soci, "list")
	if err != nil {
		return nil, err
	}
	var found []string
	add := func(bad bool, format string, args ...any) {
		if bad {
			found = append(found, fmt.Sprintf(format, args...))
		}
	}
	add(len(now.mounts) > len(r.base.mounts), "mounts: %q, %q at first", now.mounts, r.base.mounts)
	add(now.files > r.base.files+moreFiles, "open files of the daemon: %d, %d at first; %v, %v at first", now.files, r.base.files, now.open, r.base.open)
	add(now.open["pipe"] > mostPipes, "pipes of the daemon: %d", now.open["pipe"])
	add(now.held > r.base.held, "open files of the holder: %d, %d at first", now.held, r.base.held)
	add(now.goroutines > r.base.goroutines+moreGoroutines, "goroutines of the daemon: %d, %d at first", now.goroutines, r.base.goroutines)
	add(now.disk > r.base.disk+moreDisk, "disk: %d bytes, %d at first", now.disk, r.base.disk)
	add(strings.Count(snapshots, "\n") > 1, "snapshots: %s", snapshots)
	return found, nil
}

// leaksOfClose stops the node and reports what is left of it.
func (r *run) leaksOfClose(ctx context.Context) {
	daemon := r.node.SnapshotterPid()
	holder, err := r.node.HolderPid()
	if err != nil {
		r.report.leak("%v", err)
	}
	r.pid.Store(0)
	if err := r.node.Close(ctx); err != nil {
		r.report.leak("stop the node: %v", err)
	}
	for _, pid := range []int{daemon, holder} {
		for end := time.Now().Add(10 * time.Second); pid != 0 && unix.Kill(pid, 0) == nil; wait(ctx, 10*time.Millisecond) {
			if time.Now().After(end) {
				r.report.leak("process %d runs on", pid)
				break
			}
		}
	}
	if left, err := r.mounts(); err != nil || len(left) > 0 {
		r.report.leak("mounts in the end: %q, %v", left, err)
	}
}

// readLog looks for what a daemon says that is not as it should be, whatever else it did.
func (r *run) readLog() error {
	f, err := os.Open(r.node.SnapshotterLog())
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 4<<20)
	said := 0
	for lines.Scan() {
		line := lines.Text()
		for _, bad := range []string{"DATA RACE", "panic: ", "fatal error: ", `"internal error"`, "unexpected fault address"} {
			if said > 0 || strings.Contains(line, bad) {
				if said == 0 {
					r.report.fault("the daemon's log has this line and those after it:")
					said = 60
				}
				r.report.log(line)
				said--
				break
			}
		}
	}
	return lines.Err()
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/benchmark/chaos/internal/check"
)

// realm is what a fault takes away for as long as it lasts.
type realm string

// The realms.
const (
	noDaemon     realm = "daemon"     // there is none
	noContainerd realm = "containerd" // there is none
	badRegistry  realm = "registry"   // its answers are spoilt
	noSpace      realm = "disk"       // it is full
	lostMount    realm = "mount"      // it is another one from now on
)

// window is the time of one fault, as of check.Now.
type window struct {
	realm    realm
	from, to int64 // to is math.MaxInt64 while it lasts
	// had is, of badRegistry, what was on disk when it began.
	had holdings
}

// holdings tells what is on disk.
type holdings interface {
	// has reports whether all bytes at off of a file of an image were there.
	has(image, path string, off, n int64) bool
}

// maxWindows bounds how many windows are remembered. A failure is judged within a second
// of its end, and an operation takes a minute at most.
const maxWindows = 4000

// timeline is what was wrong, and when. It is safe for concurrent use.
type timeline struct {
	mu      sync.Mutex
	windows []*window // by from
	forgot  int64     // when something was last taken from disk
}

// begin opens a window and returns what closes it.
func (t *timeline) begin(r realm, had holdings) (end func()) {
	w := &window{realm: r, from: check.Now(), to: math.MaxInt64, had: had}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.windows = append(t.windows, w); len(t.windows) > maxWindows {
		t.windows = slices.Clone(t.windows[maxWindows/2:])
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		w.to = check.Now()
	}
}

// forget notes that bytes may have gone from the disk, or are about to.
func (t *timeline) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgot = check.Now()
}

// first returns a window of the realm for which ok that has a moment in common with [from, to], nil if there is none.
func (t *timeline) first(r realm, from, to int64, ok func(w window, forgot int64) bool) *window {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range slices.Backward(t.windows) {
		if w.realm == r && w.from <= to && w.to >= from && (ok == nil || ok(*w, t.forgot)) {
			found := *w
			return &found
		}
	}
	return nil
}

// during reports whether one of the realms was touched in [from, to].
func (t *timeline) during(from, to int64, realms ...realm) bool {
	return slices.ContainsFunc(realms, func(r realm) bool { return t.first(r, from, to, nil) != nil })
}

// Tolerances of the rules: the machine is busy, and what has gone wrong is told a little later.
const (
	lateError   = 3e9 // after a spoilt answer was the last one
	lateControl = 5e9 // after the end of what a command needs
)

// reason is why an operation may fail; "" is none.
type reason string

// The reasons.
const (
	unexplained  reason = ""
	byMount      reason = "its mount was lost with daemon and holder"
	byAbsence    reason = "the daemon was away for longer than the holder waits"
	byRegistry   reason = "bytes not on disk, the registry failing"
	byInterrupts reason = "a command met a daemon, containerd, registry or disk that was down"
)

// explain says why a checker's operation may have failed. What gave wrong bytes never may.
//
//   - In a container whose mount was lost, as daemon and holder were killed at once: anything
//     that the kernel says of a connection that is gone, at any time after that.
//   - EIO while the daemon was away for longer than the holder's bound, beyond that bound.
//   - EIO of an operation that reads content, while the registry was spoiling answers or within
//     lateError of that, if the bytes asked for were not all on disk when the spoiling began,
//     as far as the state files of the spans said, or may have gone since by a fault of ours.
func (t *timeline) explain(f check.Failure, image string, lostAt int64) reason {
	errno := unix.Errno(f.Errno)
	switch {
	case f.Wrong:
		return unexplained
	case lostAt != 0 && f.End >= lostAt && (errno == unix.ENOTCONN || errno == unix.EIO || errno == unix.ECONNABORTED || errno == unix.ESTALE):
		return byMount
	case errno != unix.EIO:
		return unexplained
	case t.first(noDaemon, f.Begin, f.End, func(w window, _ int64) bool {
		return f.End-w.from >= int64(eioAfter) && min(w.to, f.End)-w.from >= int64(eioAfter)
	}) != nil:
		return byAbsence
	case !check.Content(f.Way):
		return unexplained
	case t.first(badRegistry, f.Begin-lateError, f.End, func(w window, forgot int64) bool {
		return forgot >= w.from || w.had == nil || !w.had.has(image, f.Path, f.Off, f.Len)
	}) != nil:
		return byRegistry
	}
	return unexplained
}

// command is what somebody does by hand.
type command string

// The commands.
const (
	startBox  command = "start container"
	runBox    command = "run container"
	removeBox command = "remove container"
	pullImage command = "pull image"
	dropImage command = "remove image"
)

// needs is what a command cannot do without.
func (c command) needs() []realm {
	switch c {
	case startBox, runBox, pullImage:
		return []realm{noDaemon, noContainerd, badRegistry, noSpace, lostMount}
	default:
		return []realm{noDaemon, noContainerd, noSpace, lostMount}
	}
}

// explainCommand says why a command may have failed.
func (t *timeline) explainCommand(c command, begin, end int64) reason {
	if t.during(begin-lateControl, end, c.needs()...) {
		return byInterrupts
	}
	return unexplained
}

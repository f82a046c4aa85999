// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/benchmark/chaos/internal/check"
)

// some is holdings in which the files named are there.
type some map[string]bool

func (s some) has(image, path string, _, _ int64) bool { return s[image+"/"+path] }

// TestExplain holds what may fail, and above all what may not.
func TestExplain(t *testing.T) {
	const s = int64(1e9)
	away := int64(eioAfter)
	had := some{"a/local": true}
	line := func(forgot int64, windows ...*window) *timeline { return &timeline{windows: windows, forgot: forgot} }
	bad := func() *window { return &window{realm: badRegistry, from: 100 * s, to: 110 * s, had: had} }
	fail := func(way, path string, errno unix.Errno, begin, end int64) check.Failure {
		return check.Failure{Way: way, Path: path, Len: 10, Begin: begin, End: end, Errno: int(errno)}
	}
	wrong := fail("whole", "cold", 0, 105*s, 106*s)
	wrong.Wrong = true
	for _, tt := range []struct {
		name string
		line *timeline
		f    check.Failure
		lost int64
		want reason
	}{
		{"in good weather", line(0), fail("whole", "cold", unix.EIO, s, 2*s), 0, unexplained},
		{"cold bytes in bad weather", line(0, bad()), fail("whole", "cold", unix.EIO, 105*s, 106*s), 0, byRegistry},
		{"it began before", line(0, bad()), fail("mmap", "cold", unix.EIO, 90*s, 101*s), 0, byRegistry},
		{"it ended just after", line(0, bad()), fail("mmap", "cold", unix.EIO, 111*s, 113*s-1), 0, byRegistry},
		{"long after", line(0, bad()), fail("mmap", "cold", unix.EIO, 113*s+1, 114*s), 0, unexplained},
		{"before", line(0, bad()), fail("mmap", "cold", unix.EIO, 90*s, 99*s), 0, unexplained},
		{"local bytes in bad weather", line(0, bad()), fail("whole", "local", unix.EIO, 105*s, 106*s), 0, unexplained},
		{"local bytes that went since", line(104*s, bad()), fail("whole", "local", unix.EIO, 105*s, 106*s), 0, byRegistry},
		{"local bytes that went before", line(99*s, bad()), fail("whole", "local", unix.EIO, 105*s, 106*s), 0, unexplained},
		{"another error", line(0, bad()), fail("whole", "cold", unix.ESTALE, 105*s, 106*s), 0, unexplained},
		{"names in bad weather", line(0, bad()), fail("names", "cold", unix.EIO, 105*s, 106*s), 0, unexplained},
		{"attributes in bad weather", line(0, bad()), fail("stat", "cold", unix.EIO, 105*s, 106*s), 0, unexplained},
		{"wrong bytes in bad weather", line(0, bad()), wrong, 0, unexplained},
		{"wrong bytes on a lost mount", line(0), wrong, 100 * s, unexplained},
		{"a lost mount", line(0), fail("stat", "local", unix.ENOTCONN, 105*s, 106*s), 105*s + 1, byMount},
		{"a mount lost later", line(0), fail("stat", "local", unix.ENOTCONN, 105*s, 106*s), 107 * s, unexplained},
		{"no file on a lost mount", line(0), fail("stat", "local", unix.ENOENT, 105*s, 106*s), 100 * s, unexplained},
		{"another container lost its mount", line(0), fail("stat", "local", unix.ENOTCONN, 105*s, 106*s), 0, unexplained},
		{"away too long", line(0, &window{realm: noDaemon, from: 100 * s, to: 100*s + away + s}), fail("names", "local", unix.EIO, 100*s, 100*s+away), 0, byAbsence},
		{"before the bound", line(0, &window{realm: noDaemon, from: 100 * s, to: 100*s + away + s}), fail("names", "local", unix.EIO, 100*s, 100*s+away-1), 0, unexplained},
		{"away for a moment", line(0, &window{realm: noDaemon, from: 100 * s, to: 101 * s}), fail("names", "local", unix.EIO, 100*s, 101*s+away), 0, unexplained},
	} {
		if got := tt.line.explain(tt.f, "a", tt.lost); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestExplainCommand: a command may fail only beside a fault of something that it needs.
func TestExplainCommand(t *testing.T) {
	const s = int64(1e9)
	l := &timeline{windows: []*window{{realm: badRegistry, from: 100 * s, to: 101 * s}, {realm: noContainerd, from: 200 * s, to: 201 * s}}}
	for _, tt := range []struct {
		c          command
		begin, end int64
		want       reason
	}{
		{pullImage, 100 * s, 102 * s, byInterrupts},
		{pullImage, 90 * s, 99 * s, unexplained},
		{pullImage, 107 * s, 108 * s, unexplained},
		{removeBox, 100 * s, 102 * s, unexplained},
		{removeBox, 199 * s, 200 * s, byInterrupts},
		{startBox, 203 * s, 204 * s, byInterrupts},
	} {
		if got := l.explainCommand(tt.c, tt.begin, tt.end); got != tt.want {
			t.Errorf("%s in [%d, %d]: %q, want %q", tt.c, tt.begin, tt.end, got, tt.want)
		}
	}
}

// TestTimelineForgets: windows are bounded, and those that are still open count.
func TestTimelineForgets(t *testing.T) {
	var l timeline
	for range 3 * maxWindows {
		l.begin(noDaemon, nil)()
	}
	if len(l.windows) > maxWindows {
		t.Errorf("%d windows", len(l.windows))
	}
	now := check.Now()
	end := l.begin(badRegistry, nil)
	if !l.during(now+1e12, now+2e12, badRegistry) {
		t.Error("a window that is open does not count")
	}
	end()
	if l.during(now+1e12, now+2e12, badRegistry) {
		t.Error("a window that is closed counts")
	}
}

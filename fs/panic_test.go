// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"bytes"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestHandlerPanics has requests panic, of all kinds, outside of go-fuse as well: they fail,
// and the next ones do not.
func TestHandlerPanics(t *testing.T) {
	var on atomic.Bool
	f := mustMountWith(t, Options{OnRequest: func() {
		if on.Load() {
			panic("a request that cannot be")
		}
	}})
	d, _ := mustAttach(t, f, "layer", waitTree(t))
	for _, kind := range waiters {
		on.Store(true)
		c := command(t, "wait", kind, d)
		c.Stderr = nil
		if out, err := c.CombinedOutput(); err == nil || !strings.Contains(string(out), unix.EIO.Error()) {
			t.Errorf("%s: %v, %s", kind, err, out)
		}
		on.Store(false)
		must(t, command(t, "wait", kind, d).Run())
	}
	if st := f.Stats(); st.Panics == 0 {
		t.Errorf("stats %+v", st)
	}
}

// TestPanicsBounded holds that a loop of requests that panic fills neither the log nor the
// memory.
func TestPanicsBounded(t *testing.T) {
	var log bytes.Buffer
	f := &FS{opts: Options{Log: slog.New(slog.NewTextHandler(&log, nil))}}
	for range maxPanics {
		f.panicked("x")
	}
	if n := strings.Count(log.String(), "\n"); n == 0 || n > 3 {
		t.Errorf("%d lines are logged", n)
	}
	defer func() {
		if recover() == nil {
			t.Error("the process goes on")
		}
	}()
	f.panicked("x")
}

// TestCrashes ends daemons as a bug of Go's or of ours does: those who use the mount notice
// nothing.
func TestCrashes(t *testing.T) {
	h := newHome(t, mustBuild(t, ztoctest.Files(7, 60)))
	d := h.start(t, "never", Fresh)
	dir := filepath.Join(h.mnt(), "0")
	want := mustDump(t, dir)
	for _, sig := range []unix.Signal{unix.SIGQUIT, unix.SIGABRT, unix.SIGSEGV, unix.SIGBUS} {
		must(t, d.cmd.Process.Signal(sig))
		if err := d.cmd.Wait(); err == nil {
			t.Fatalf("%v: it went on", sig)
		}
		must(t, exec.Command("sh", "-c", "echo 3 > /proc/sys/vm/drop_caches").Run())
		got := make(chan map[string]seen, 1)
		go func() { got <- mustDump(t, dir) }()
		d = h.start(t, "never", Resumed)
		compare(t, <-got, want, nil)
	}
	d.stop(t)
}

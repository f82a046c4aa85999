// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/fs/hold"
	"github.com/seekoci/seekoci/fs/span"
)

// resumed is a daemon in this process that has taken over the mount and expects its layer.
func (h home) resumed(t *testing.T, opts Options) (*FS, *hold.Client) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	c, err := hold.Open(t.Context(), hold.Options{Dir: h.holder(), Log: log, Grace: 20 * time.Millisecond})
	must(t, err)
	opts.StateDir, opts.Log, opts.Holder = filepath.Join(string(h), "state"), log, c
	f, err := Mount(h.mnt(), opts)
	must(t, err)
	p, err := os.ReadFile(filepath.Join(string(h), "layers", "0", "slot"))
	must(t, err)
	slot, err := strconv.ParseUint(string(p), 10, 32)
	must(t, err)
	must(t, f.Expect("0", uint32(slot)))
	must(t, f.Begin())
	return f, c
}

// TestExpect takes over a mount with a layer that cannot be served yet: who uses it waits
// for it, in whatever way, and who is killed meanwhile need not.
func TestExpect(t *testing.T) {
	h := newHome(t, waitTree(t))
	d := h.start(t, "never", Fresh)
	dir := filepath.Join(h.mnt(), "0")
	for _, known := range []string{"read", "direct", "fault", "sub", "list", "link"} {
		must(t, exec.Command("stat", filepath.Join(dir, known)).Run())
	}
	d.kill(t)
	f, keeper := h.resumed(t, Options{Patience: time.Hour})
	for kind, c := range startWaiters(t, dir) {
		until(t, func() bool { return waiting(t, c) })
		must(t, c.Process.Kill())
		ended := make(chan error, 1)
		go func() { ended <- c.Wait() }()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: waits on, killed as it is", kind)
		}
	}
	all := startWaiters(t, dir)
	for _, c := range all {
		until(t, func() bool { return waiting(t, c) })
	}
	// They are left to the next one.
	must(t, errors.Join(f.Close(), keeper.Close()))
	f, keeper = h.resumed(t, Options{Patience: time.Hour})
	s, err := span.Open(filepath.Join(string(h), "spans"), span.Options{})
	must(t, err)
	must(t, h.attach(t.Context(), f, s, nil))
	for kind, c := range all {
		if err := c.Wait(); err != nil {
			t.Errorf("%s: %v, %s", kind, err, c.Stderr)
		}
	}
	must(t, errors.Join(f.Close(), keeper.Close(), s.Close()))
}

// TestExpectLate has a layer come too late for those who wait for it, but not for others.
func TestExpectLate(t *testing.T) {
	h := newHome(t, waitTree(t))
	h.start(t, "never", Fresh).kill(t)
	dir := filepath.Join(h.mnt(), "0")
	f, keeper := h.resumed(t, Options{Patience: 300 * time.Millisecond})
	for range 2 { // until then, and after it
		for kind, c := range startWaiters(t, dir) {
			if err := c.Wait(); err == nil || !strings.Contains(fmt.Sprint(c.Stderr), unix.EIO.Error()) {
				t.Errorf("%s: %v, %s", kind, err, c.Stderr)
			}
		}
	}
	s, err := span.Open(filepath.Join(string(h), "spans"), span.Options{})
	must(t, err)
	must(t, h.attach(t.Context(), f, s, nil))
	for _, kind := range waiters {
		must(t, command(t, "wait", kind, dir).Run())
	}
	must(t, errors.Join(f.Close(), keeper.Close(), s.Close()))
}

// TestExpectAttached holds that a layer which is there is not waited for, whoever expects it.
func TestExpectAttached(t *testing.T) {
	h := newHome(t, waitTree(t))
	h.start(t, "never", Fresh).kill(t)
	f, keeper := h.resumed(t, Options{Patience: time.Nanosecond})
	s, err := span.Open(filepath.Join(string(h), "spans"), span.Options{})
	must(t, err)
	must(t, h.attach(t.Context(), f, s, nil))
	must(t, f.Expect("0", f.table.Load().names["0"].slot))
	must(t, f.Expect("0", 0))
	must(t, f.Expect("another name", f.table.Load().names["0"].slot))
	dir := filepath.Join(h.mnt(), "0")
	for kind, c := range startWaiters(t, dir) {
		if err := c.Wait(); err != nil {
			t.Errorf("%s: %v, %s", kind, err, c.Stderr)
		}
	}
	must(t, errors.Join(f.Close(), keeper.Close(), s.Close()))
}

// TestExpectDebug holds that who waits can be killed where every request is logged, too.
func TestExpectDebug(t *testing.T) {
	h := newHome(t, waitTree(t))
	h.start(t, "never", Fresh).kill(t)
	f, keeper := h.resumed(t, Options{Patience: time.Hour, Debug: true})
	c := command(t, "wait", "read", filepath.Join(h.mnt(), "0"))
	must(t, c.Start())
	until(t, func() bool { return waiting(t, c) })
	must(t, c.Process.Kill())
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("waits on, killed as it is")
	}
	must(t, errors.Join(f.Close(), keeper.Close()))
}

// TestExpectCrowd holds that beyond a bound nobody waits.
func TestExpectCrowd(t *testing.T) {
	h := newHome(t, waitTree(t))
	d := h.start(t, "never", Fresh)
	for _, known := range []string{"read", "direct", "link"} {
		must(t, exec.Command("stat", filepath.Join(h.mnt(), "0", known)).Run())
	}
	d.kill(t)
	f, keeper := h.resumed(t, Options{Patience: time.Hour, maxWaiting: 1})
	dir := filepath.Join(h.mnt(), "0")
	first := command(t, "wait", "read", dir)
	must(t, first.Start())
	until(t, func() bool { return f.waiting.Load() == 1 })
	for _, kind := range []string{"direct", "readlink"} {
		out := new(strings.Builder)
		c := command(t, "wait", kind, dir)
		c.Stderr = out
		if err := c.Run(); err == nil || !strings.Contains(out.String(), unix.EIO.Error()) {
			t.Errorf("%s: %v, %s", kind, err, out)
		}
	}
	s, err := span.Open(filepath.Join(string(h), "spans"), span.Options{})
	must(t, err)
	must(t, h.attach(t.Context(), f, s, nil))
	must(t, first.Wait())
	if n := f.waiting.Load(); n != 0 {
		t.Errorf("%d requests wait", n)
	}
	must(t, errors.Join(f.Close(), keeper.Close(), s.Close()))
}

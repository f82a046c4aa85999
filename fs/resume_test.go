// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/fs/hold"
	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestHandedOver kills and stops daemons, of which those who use the mount notice nothing.
func TestHandedOver(t *testing.T) {
	b := waitTree(t)
	h := newHome(t, b, mustBuild(t, ztoctest.Files(7, 60)))
	d := h.start(t, "never", Fresh)
	plain := t.TempDir()
	m := overlay(t, []string{filepath.Join(h.mnt(), "0"), plain})
	want, inside := mustDump(t, filepath.Join(h.mnt(), "1")), mustDump(t, m)
	for i := range 6 {
		if i%2 == 0 {
			d.kill(t)
		} else {
			d.stop(t)
		}
		must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)) // all is asked for again
		got, gotInside := make(chan map[string]seen, 1), make(chan map[string]seen, 1)
		go func() { got <- mustDump(t, filepath.Join(h.mnt(), "1")) }()
		go func() { gotInside <- mustDump(t, m) }()
		d = h.start(t, "never", Resumed)
		compare(t, <-got, want, nil)
		compare(t, <-gotInside, inside, nil)
	}
	d.stop(t)
}

// TestStoppedUnderRead stops a daemon in good order under a read that it cannot serve yet:
// the next one serves it.
func TestStoppedUnderRead(t *testing.T) {
	h := newHome(t, waitTree(t))
	d := h.start(t, "always", Fresh)
	dir := filepath.Join(h.mnt(), "0")
	all := make(map[string]*exec.Cmd)
	for _, kind := range []string{"read", "direct", "fault"} {
		c := command(t, "wait", kind, dir)
		must(t, c.Start())
		until(t, func() bool { return waiting(t, c) })
		all[kind] = c
	}
	d.expect(t, "asked")
	for range 2 {
		d.stop(t)
		d = h.start(t, "always", Resumed)
		d.expect(t, "asked") // at least once
	}
	d.stop(t)
	d = h.start(t, "never", Resumed)
	for kind, c := range all {
		if err := c.Wait(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	d.stop(t)
}

// TestGuardKilled kills processes that wait for an answer while no daemon is there: they go.
func TestGuardKilled(t *testing.T) {
	h := newHome(t, waitTree(t))
	d := h.start(t, "always", Fresh)
	dir := filepath.Join(h.mnt(), "0")
	// This one was being served when the daemon was killed.
	c := command(t, "wait", "direct", dir)
	must(t, c.Start())
	d.expect(t, "asked")
	for _, known := range []string{"read", "direct", "fault", "sub", "list", "link"} {
		must(t, exec.Command("stat", filepath.Join(dir, known)).Run())
	}
	d.kill(t)
	all := startWaiters(t, dir)
	all["served"] = c
	for kind, c := range all {
		until(t, func() bool { return waiting(t, c) })
		must(t, c.Process.Signal(unix.SIGWINCH)) // ignored: no reason to go
		must(t, c.Process.Kill())
		ended := make(chan error, 1)
		go func() { ended <- c.Wait() }()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: waits on, killed as it is", kind)
		}
	}
	d = h.start(t, "never", Resumed)
	for _, kind := range waiters {
		must(t, command(t, "wait", kind, dir).Run())
	}
	d.stop(t)
}

// TestGuardLimit has processes wait for an answer until the guard gives up. The next
// daemon serves on.
func TestGuardLimit(t *testing.T) {
	h := newHome(t, waitTree(t))
	d := h.start(t, "always", Fresh, guardEnv+"=300ms")
	dir := filepath.Join(h.mnt(), "0")
	c := command(t, "wait", "direct", dir)
	c.Stderr = new(bytes.Buffer)
	must(t, c.Start())
	d.expect(t, "asked")
	d.kill(t)
	for range 2 { // up to the limit, and beyond it
		all := startWaiters(t, dir)
		if c != nil {
			all["served"] = c
			c = nil
		}
		for kind, c := range all {
			if err := c.Wait(); err == nil || !strings.Contains(fmt.Sprint(c.Stderr), unix.EIO.Error()) && !strings.Contains(fmt.Sprint(c.Stderr), unix.ENOMEM.Error()) {
				t.Errorf("%s: %v, %s", kind, err, c.Stderr)
			}
		}
	}
	d = h.start(t, "never", Resumed)
	for _, kind := range waiters {
		must(t, command(t, "wait", kind, dir).Run())
	}
	d.stop(t)
	f, keeper, err := h.open(t.Context(), hold.Options{})
	must(t, err)
	if st := keeper.Stats(); st.Failed < 7 || st.Resends == 0 || st.Guards < 2 {
		t.Errorf("stats %+v", st)
	}
	must(t, errors.Join(f.Unmount(), keeper.Close()))
}

// TestBothGone kills daemon and holder: what used the mount fails, and the next daemon
// makes another.
func TestBothGone(t *testing.T) {
	const file = "big"
	h := newHome(t, mustBuild(t, []ztoctest.File{ztoctest.Big(8, file, 1<<20)}))
	d := h.start(t, "never", Fresh)
	dir := filepath.Join(h.mnt(), "0")
	m := overlay(t, []string{dir, t.TempDir()})
	want := mustDump(t, dir)
	d.kill(t)
	must(t, hold.Release(h.holder()))
	until(t, func() bool { return exec.Command("cat", m+"/"+file).Run() != nil })
	d = h.start(t, "never", Replaced)
	compare(t, mustDump(t, dir), want, nil)
	d.stop(t)
}

// TestDetachTakenOver detaches layers whose users a daemon before has seen.
func TestDetachTakenOver(t *testing.T) {
	b := mustBuild(t, []ztoctest.File{ztoctest.Big(1, "dir/big", 1<<20)})
	h := newHome(t, b)
	d := h.start(t, "never", Fresh)
	c := command(t, "hold", filepath.Join(h.mnt(), "0/dir/big"))
	in, err := c.StdinPipe()
	must(t, err)
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	lines := bufio.NewScanner(out)
	lines.Scan()
	d.kill(t)

	f, keeper, err := h.open(t.Context(), hold.Options{})
	must(t, err)
	s, err := span.Open(filepath.Join(string(h), "spans"), span.Options{})
	must(t, err)
	must(t, h.attach(t.Context(), f, s, nil))
	must(t, f.Begin())
	must(t, f.Begin())
	must(t, f.Detach("0"))
	if st := f.Stats(); st.Held != 1 {
		t.Errorf("stats %+v", st)
	}
	f.sweep()
	fmt.Fprintln(in, "read")
	if lines.Scan(); len(lines.Text()) != 64 {
		t.Errorf("read of a detached layer: %q", lines.Text())
	}
	must(t, c.Wait())
	until(t, func() bool { f.sweep(); return f.Stats().Held == 0 })
	must(t, errors.Join(f.Unmount(), keeper.Close(), s.Close()))
	must(t, os.Remove(h.mnt()))
}

// TestNotBegun closes what was taken over before it is served: the next daemon has it all.
func TestNotBegun(t *testing.T) {
	h := newHome(t, mustBuild(t, []ztoctest.File{ztoctest.Big(1, "big", 1<<20)}))
	d := h.start(t, "never", Fresh)
	dir := filepath.Join(h.mnt(), "0")
	want := mustDump(t, dir)
	d.kill(t)
	must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
	seen := make(chan map[string]seen)
	go func() { seen <- mustDump(t, dir) }()
	for range 3 {
		f, keeper, err := h.open(t.Context(), hold.Options{})
		must(t, err)
		if f.Origin() != Resumed {
			t.Errorf("origin is %v", f.Origin())
		}
		must(t, errors.Join(f.Close(), keeper.Close()))
		if err := f.Begin(); !errors.Is(err, ErrClosed) {
			t.Errorf("begin after close: %v", err)
		}
	}
	d = h.start(t, "never", Resumed)
	compare(t, <-seen, want, nil)
	d.stop(t)
}

// BenchmarkResume takes over 100 layers of 2,000 files each.
func BenchmarkResume(b *testing.B) {
	const layers = 100
	one := mustBuild(b, ztoctest.Files(1, 2000))
	var all []*built
	for range layers {
		all = append(all, one)
	}
	h := newHome(b, all...)
	s, err := span.Open(filepath.Join(string(h), "spans"), span.Options{})
	must(b, err)
	data := make([]*span.Layer, layers)
	slots := make([]uint32, layers)
	for i := range data {
		data[i], err = s.Layer(fmt.Sprint(i), one.z.ZInfo, one.blob)
		must(b, err)
	}
	p, err := one.z.Marshal()
	must(b, err)
	for b.Loop() {
		f, keeper, err := h.open(b.Context(), hold.Options{})
		must(b, err)
		for i := range data {
			z, err := ztoc.Open(p)
			must(b, err)
			a, err := f.Attach(fmt.Sprint(i), slots[i], z, data[i])
			must(b, err)
			slots[i] = a.Slot
		}
		must(b, f.Begin())
		must(b, errors.Join(f.Close(), keeper.Close()))
	}
	for _, l := range data {
		must(b, l.Close())
	}
	must(b, s.Close())
}

// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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
	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// home is the directory of a mount that outlives who serves it: the mount point, its
// state, its holder, and a directory for each layer with its blob.
type home string

func (h home) mnt() string    { return filepath.Join(string(h), "mnt") }
func (h home) holder() string { return filepath.Join(string(h), "holder") }

// newHome makes a home with the layers.
func newHome(t testing.TB, layers ...*built) home {
	t.Helper()
	needMount(t)
	h := home(t.TempDir())
	for i, b := range layers {
		dir := filepath.Join(string(h), "layers", fmt.Sprint(i))
		must(t, os.MkdirAll(dir, 0o700))
		must(t, os.WriteFile(filepath.Join(dir, "blob"), b.blob.data, 0o600))
	}
	t.Cleanup(func() {
		if err := hold.Release(h.holder()); err != nil {
			t.Error(err)
		}
		for unix.Unmount(h.mnt(), unix.MNT_DETACH|unix.MNT_FORCE) == nil {
		}
	})
	return h
}

func (h home) open(ctx context.Context, o hold.Options) (*FS, *hold.Client, error) {
	o.Dir, o.Log = h.holder(), slog.New(slog.DiscardHandler)
	if o.Grace == 0 {
		o.Grace = 20 * time.Millisecond
	}
	c, err := hold.Open(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	f, err := Mount(h.mnt(), Options{StateDir: filepath.Join(string(h), "state"), Log: o.Log, Holder: c})
	return f, c, err
}

// attach attaches the layers, in the slots that they had.
func (h home) attach(ctx context.Context, f *FS, s *span.Store, hook func(context.Context) error) error {
	layers, err := os.ReadDir(filepath.Join(string(h), "layers"))
	if err != nil {
		return err
	}
	for _, e := range layers {
		dir := filepath.Join(string(h), "layers", e.Name())
		data, err := os.ReadFile(filepath.Join(dir, "blob"))
		if err != nil {
			return err
		}
		z, err := ztoc.Build(ctx, bytes.NewReader(data), ztoc.BuildOptions{SpanSize: 64 << 10})
		if err != nil {
			return err
		}
		l, err := s.Layer(e.Name(), z.ZInfo, &blob{data: data, hook: hook})
		if err != nil {
			return err
		}
		slot := uint64(0)
		if p, err := os.ReadFile(filepath.Join(dir, "slot")); err == nil {
			if slot, err = strconv.ParseUint(string(p), 10, 32); err != nil {
				return err
			}
		}
		a, err := f.Attach(e.Name(), uint32(slot), z, l)
		if err != nil {
			return err
		}
		if slot != 0 && uint64(a.Slot) != slot {
			return fmt.Errorf("layer %s has got slot %d for %d", e.Name(), a.Slot, slot)
		}
		if err := errors.Join(l.Close(), os.WriteFile(filepath.Join(dir, "slot"), fmt.Append(nil, a.Slot), 0o600)); err != nil {
			return err
		}
	}
	return nil
}

// serveLayers is a daemon. stall is when its blobs do not answer: "never", or "always".
func serveLayers(dir, stall string) error {
	ctx, h := context.Background(), home(dir)
	s, err := span.Open(filepath.Join(dir, "spans"), span.Options{})
	if err != nil {
		return err
	}
	f, c, err := h.open(ctx, hold.Options{Guard: guardLimit()})
	if err != nil {
		return err
	}
	var hook func(context.Context) error
	if stall == "always" {
		hook = func(ctx context.Context) error {
			fmt.Println("asked")
			<-ctx.Done()
			return ctx.Err()
		}
	}
	if err := errors.Join(h.attach(ctx, f, s, hook), f.Begin()); err != nil {
		return err
	}
	fmt.Println("serving", f.Origin())
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return errors.Join(f.Close(), c.Close(), s.Close())
}

// guardEnv sets the daemon's hold.Options.Guard.
const guardEnv = "SEEKOCI_FS_TEST_GUARD"

func guardLimit() time.Duration {
	d, _ := time.ParseDuration(os.Getenv(guardEnv)) // 0 is the default
	return d
}

// server is a daemon in a process of its own.
type daemon struct {
	cmd   *exec.Cmd
	in    io.Closer
	lines *bufio.Scanner
}

// start starts a daemon that finds the mount as it should.
func (h home) start(t testing.TB, stall string, want Origin, env ...string) *daemon {
	t.Helper()
	d := &daemon{cmd: command(t, "serve", string(h), stall)}
	d.cmd.Env = append(d.cmd.Env, env...)
	in, err := d.cmd.StdinPipe()
	must(t, err)
	out, err := d.cmd.StdoutPipe()
	must(t, err)
	must(t, d.cmd.Start())
	d.in, d.lines = in, bufio.NewScanner(out)
	d.expect(t, fmt.Sprint("serving ", int(want)))
	return d
}

func (d *daemon) expect(t testing.TB, want string) {
	t.Helper()
	if !d.lines.Scan() || d.lines.Text() != want {
		t.Fatalf("daemon says %q, want %q", d.lines.Text(), want)
	}
}

func (d *daemon) kill(t testing.TB) {
	t.Helper()
	must(t, d.cmd.Process.Kill())
	d.cmd.Wait()
}

// stop ends the daemon in good order.
func (d *daemon) stop(t testing.TB) {
	t.Helper()
	must(t, d.in.Close())
	must(t, d.cmd.Wait())
}

// waiters are the ways to wait for a file system's answer.
var waiters = []string{"read", "direct", "fault", "lookup", "readdir", "readlink"}

// waitFor waits for an answer about something below dir that the kernel does not know yet.
func waitFor(kind, dir string) error {
	switch kind {
	case "read":
		_, err := os.ReadFile(filepath.Join(dir, "read"))
		return err
	case "direct":
		fd, err := unix.Open(filepath.Join(dir, "direct"), unix.O_RDONLY|unix.O_DIRECT, 0)
		if err != nil {
			return err
		}
		_, err = unix.Pread(fd, make([]byte, 4096), 0)
		return err
	case "fault":
		f, err := os.Open(filepath.Join(dir, "fault"))
		if err != nil {
			return err
		}
		m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		return unix.Mlock(m) // an error, not a SIGBUS
	case "lookup":
		_, err := os.Lstat(filepath.Join(dir, "sub", "name"))
		return err
	case "readdir":
		_, err := os.ReadDir(filepath.Join(dir, "list"))
		return err
	case "readlink":
		_, err := os.Readlink(filepath.Join(dir, "link"))
		return err
	}
	return fmt.Errorf("nobody waits like %q", kind)
}

// waitTree is a layer with something for each of them.
func waitTree(t testing.TB) *built {
	return mustBuild(t, []ztoctest.File{
		ztoctest.Big(1, "read", 300<<10), ztoctest.Big(2, "direct", 300<<10), ztoctest.Big(3, "fault", 300<<10),
		ztoctest.Big(4, "sub/name", 10), ztoctest.Big(5, "list/a", 10),
		{Header: tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "sub/name", Mode: 0o777}},
	})
}

// startWaiters has all of them wait, with the names on the way known to the kernel.
func startWaiters(t testing.TB, dir string) map[string]*exec.Cmd {
	t.Helper()
	all := make(map[string]*exec.Cmd)
	for _, kind := range waiters {
		c := command(t, "wait", kind, dir)
		c.Stderr = new(bytes.Buffer)
		must(t, c.Start())
		all[kind] = c
	}
	return all
}

// waiting reports whether a process waits for a file system.
func waiting(t testing.TB, c *exec.Cmd) bool {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", c.Process.Pid))
	must(t, err)
	for _, task := range tasks {
		stack, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stack", c.Process.Pid, task.Name()))
		if strings.Contains(string(stack), "request_wait_answer") || strings.Contains(string(stack), "folio_wait") || strings.Contains(string(stack), "filemap_") {
			return true
		}
	}
	return false
}

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

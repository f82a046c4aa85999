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

func (h home) mnt() string { return filepath.Join(string(h), "mnt") }

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
	told := make(chan struct{})
	if stall == "always" {
		hook = func(ctx context.Context) error {
			select {
			case <-told: // what it serves comes first
				fmt.Println("asked")
				<-ctx.Done()
			case <-ctx.Done():
			}
			return ctx.Err()
		}
	}
	if err := errors.Join(h.attach(ctx, f, s, hook), f.Begin()); err != nil {
		return err
	}
	fmt.Println("serving", f.Origin())
	close(told)
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

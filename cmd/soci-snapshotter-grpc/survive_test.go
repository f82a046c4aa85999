// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/fs/hold"
	"github.com/seekoci/seekoci/registry/registrytest"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestLeave holds that the holder is not told to guard a mount that this process may still
// take requests of.
func TestLeave(t *testing.T) {
	told := 0
	holder := func() error { told++; return nil }
	hang := make(chan struct{})
	defer close(hang)
	if err := leave(func() error { return errors.New("x") }, holder, time.Hour); err == nil || told != 1 {
		t.Errorf("leave: %v, told %d times", err, told)
	}
	if err := leave(func() error { <-hang; return nil }, holder, time.Millisecond); err == nil || told != 1 {
		t.Errorf("leave: %v, told %d times", err, told)
	}
}

// TestUnreachable starts a daemon over a mount whose holder does not answer: it does not
// start, takes nothing away, and says what to do.
func TestUnreachable(t *testing.T) {
	root := testRoot(t)
	reg := registrytest.New(registrytest.Options{})
	defer reg.Close()
	p := start(t, root, nil)
	running, img := p.runImage(reg)
	pid := holderOf(root)
	check(t, unix.Kill(pid, unix.SIGSTOP))
	t.Cleanup(func() { unix.Kill(pid, unix.SIGCONT) })
	check(t, p.cmd.Process.Kill())
	<-p.exited
	check(t, os.Remove(filepath.Join(holderDir(filepath.Join(root, "lib")), "holder.sock")))
	_, err := run(t, "--root", filepath.Join(root, "lib"), "--address", filepath.Join(root, "run", "d.sock"), "--config", filepath.Join(root, "config.toml"))
	if !errors.Is(err, hold.ErrUnreachable) || !strings.Contains(err.Error(), holderDir(filepath.Join(root, "lib"))) {
		t.Errorf("start: %v", err)
	}
	if !mounted(t, root) {
		t.Fatal("the mount is gone")
	}
	check(t, unix.Kill(pid, unix.SIGCONT))
	p = start(t, root, nil)
	p.takenOver()
	compareFiles(t, running, img.files)
	if now := holderOf(root); now != pid {
		t.Errorf("the holder is %d, not %d", now, pid)
	}
	check(t, mount.UnmountAll(running, 0))
	p.stop(unix.SIGTERM)
}

// memoryGroup makes a group of processes that may have so many bytes in all, and returns
// its directory and the name of the file with their limit.
func memoryGroup(t *testing.T, limit int64) string {
	t.Helper()
	dir, file := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		dir, file = "/sys/fs/cgroup", "memory.max"
	}
	dir = filepath.Join(dir, fmt.Sprintf("seekoci-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("needs memory cgroups: %v", err)
	}
	t.Cleanup(func() {
		await(t, "the memory cgroup is empty", func() bool { return os.Remove(dir) == nil })
	})
	if err := os.WriteFile(filepath.Join(dir, file), fmt.Append(nil, limit), 0); err != nil {
		t.Skipf("needs memory cgroups: %v", err)
	}
	return dir
}

// oomKills returns how many processes of the group were killed for want of memory.
func oomKills(t *testing.T, group string) int {
	t.Helper()
	for _, file := range []string{"memory.oom_control", "memory.events"} {
		p, err := os.ReadFile(filepath.Join(group, file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(p)) {
			var n int
			if _, err := fmt.Sscanf(line, "oom_kill %d", &n); err == nil {
				return n
			}
		}
	}
	t.Fatal("the group does not tell of kills")
	return 0
}

// TestOutOfMemory has the kernel kill the daemon for want of memory, under load: the holder
// stays, and those who read notice nothing but a pause.
func TestOutOfMemory(t *testing.T) {
	root := testRoot(t)
	group := memoryGroup(t, 400<<20)
	check(t, appendFile(filepath.Join(root, "config.toml"), "[background_fetch]\ndisable = true\n"))
	reg := registrytest.New(registrytest.Options{Latency: 2 * time.Millisecond})
	defer reg.Close()
	img := pushImage(t, reg, manyFiles())
	truth := t.TempDir()
	for _, tar := range img.tars {
		c := exec.Command("tar", "-x", "-C", truth)
		c.Stdin = bytes.NewReader(tar)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("unpack: %v: %s", err, out)
		}
	}
	// What the daemon starts is of the group, too. It alone is to be killed, and not what takes
	// the memory: a holder may not lower its own score without CAP_SYS_RESOURCE.
	startFirst := func() *process {
		p := start(t, root, nil, "/bin/sh", "-c", `echo $$ > "$0"/cgroup.procs && exec "$@"`, group)
		check(t, os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.cmd.Process.Pid), []byte("900"), 0))
		return p
	}
	p := startFirst()
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	running := t.TempDir()
	check(t, mount.All(must(p.sn.Prepare(ctx, "container", p.pull(ctx, img)))(t), running))
	t.Cleanup(func() { mount.UnmountAll(running, unix.MNT_DETACH) })
	holder := holderOf(root)
	watchers := make(map[string]*watcher)
	for _, kind := range []string{"stat", "small", "random", "mmap", "direct"} {
		watchers[kind] = startChecker(t, kind, running, truth)
	}
	for i := range 2 {
		hog := exec.Command("/bin/sh", "-c", `echo $$ > "$0"/cgroup.procs && exec tail /dev/zero`, group)
		check(t, hog.Start())
		var ended error
		select {
		case ended = <-p.exited:
		case <-time.After(60 * time.Second):
			t.Fatal("the daemon was not killed")
		}
		hog.Process.Kill()
		hog.Wait()
		var exit *exec.ExitError
		if !errors.As(ended, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
			t.Fatalf("the daemon ended with %v", ended)
		}
		if n := oomKills(t, group); n <= i {
			t.Fatalf("the kernel killed %d processes", n)
		}
		if now := holderOf(root); now != holder {
			t.Fatalf("the holder is %d, was %d", now, holder)
		}
		forgetSpans(t, root)
		p = startFirst()
		p.takenOver()
		for kind, w := range watchers {
			if w.over() {
				t.Fatalf("checker has ended: %s: %v", kind, w.out.String())
			}
		}
	}
	for kind, w := range watchers {
		check(t, w.in.Close())
		if err := <-w.ended; err != nil {
			t.Errorf("%s: %v: %s", kind, err, w.out.String())
		}
	}
	check(t, mount.UnmountAll(running, 0))
	p.stop(unix.SIGTERM)
	check(t, hold.Release(holderDir(filepath.Join(root, "lib"))))
}

// TestFewDescriptors has a daemon that may open few files serve many who read at once, of
// more layers than it has descriptors to spare for: it is slower, and no read fails.
func TestFewDescriptors(t *testing.T) {
	root := testRoot(t)
	const layers, readers = 40, 240
	var files [][]ztoctest.File
	for i := range uint64(layers) {
		files = append(files, []ztoctest.File{ztoctest.Big(i, fmt.Sprintf("file%d", i), 600<<10)})
	}
	reg := registrytest.New(registrytest.Options{Latency: 5 * time.Millisecond})
	defer reg.Close()
	img := pushImage(t, reg, files)
	p := start(t, root, nil, "/bin/sh", "-c", `ulimit -n 256 && exec "$@"`, "sh")
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	running := t.TempDir()
	check(t, mount.All(must(p.sn.Prepare(ctx, "container", p.pull(ctx, img)))(t), running))
	t.Cleanup(func() { mount.UnmountAll(running, unix.MNT_DETACH) })
	errs := make(chan error, readers)
	for i := range readers {
		go func() {
			name := fmt.Sprintf("file%d", i%layers)
			off := int64(i/layers) * (60 << 10)
			c := exec.Command("dd", "if="+filepath.Join(running, name), "bs=4096", "count=4", "iflag=direct,skip_bytes", fmt.Sprintf("skip=%d", off&^4095))
			var out, stderr bytes.Buffer
			c.Stdout, c.Stderr = &out, &stderr
			err := c.Run()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, stderr.String())
			} else if want := img.files[name][off&^4095:][:16<<10]; !bytes.Equal(out.Bytes(), want) {
				err = fmt.Errorf("%s: wrong bytes at %d", name, off)
			}
			errs <- err
		}()
	}
	failed := 0
	for range readers {
		if err := <-errs; err != nil {
			if failed++; failed < 5 {
				t.Error(err)
			}
		}
	}
	compareFiles(t, running, img.files)
	fds := len(must(os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid)))(t))
	t.Logf("%d descriptors are open in the end, %d reads failed", fds, failed)
	check(t, mount.UnmountAll(running, 0))
	p.stop(unix.SIGTERM)
}

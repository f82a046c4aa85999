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

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/fs/hold"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// runImage has a container of an image run under p, and returns its directory.
func (p *process) runImage(reg *registrytest.Server) (string, *image) {
	p.t.Helper()
	img := pushImage(p.t, reg, smallImage())
	ctx := namespaces.WithNamespace(p.t.Context(), "k8s.io")
	dir := p.t.TempDir()
	check(p.t, mount.All(must(p.sn.Prepare(ctx, "container", p.pull(ctx, img)))(p.t), dir))
	p.t.Cleanup(func() { mount.UnmountAll(dir, unix.MNT_DETACH) })
	return dir, img
}

// stored does what systemd's store does.
func (p *process) stored(msg string, oob []byte) {
	p.t.Helper()
	_, name, _ := strings.Cut(msg, "FDNAME=")
	if strings.HasPrefix(msg, "FDSTOREREMOVE=1") {
		delete(p.store, name)
		return
	}
	msgs := must(unix.ParseSocketControlMessage(oob))(p.t)
	fds := must(unix.ParseUnixRights(&msgs[0]))(p.t)
	p.store[name] = os.NewFile(uintptr(fds[0]), name)
}

// TestHolderCommand has the mount kept by a holder that was there before the daemon.
func TestHolderCommand(t *testing.T) {
	root := testRoot(t)
	h := exec.Command(must(os.Executable())(t), "--root", filepath.Join(root, "lib"), "holder")
	h.Env = append(os.Environ(), "TEST_IS_DAEMON=1", "GORACE=atexit_sleep_ms=0")
	check(t, h.Start())
	ended := make(chan error, 1)
	go func() { ended <- h.Wait() }()
	t.Cleanup(func() { h.Process.Kill() })
	await(t, "the holder listens", func() bool {
		_, err := os.Stat(filepath.Join(holderDir(filepath.Join(root, "lib")), "holder.sock"))
		return err == nil
	})
	reg := registrytest.New(registrytest.Options{})
	defer reg.Close()
	p := start(t, root, nil)
	running, img := p.runImage(reg)
	if pid := holderOf(root); pid != h.Process.Pid {
		t.Errorf("the holder is %d, not %d", pid, h.Process.Pid)
	}
	check(t, p.cmd.Process.Kill())
	<-p.exited
	p = start(t, root, nil)
	p.takenOver()
	compareFiles(t, running, img.files)

	// It ends when it is asked to. The daemon starts another.
	check(t, h.Process.Signal(unix.SIGTERM))
	<-ended
	await(t, "there is another holder", func() bool { return holderOf(root) != 0 })
	p.stop(unix.SIGTERM)
	p = start(t, root, nil)
	p.takenOver()
	compareFiles(t, running, img.files)
	check(t, mount.UnmountAll(running, 0))
	p.stop(unix.SIGTERM)
}

// TestHolderDisabled has the mount end with the daemon, also one that was held before.
func TestHolderDisabled(t *testing.T) {
	root := testRoot(t)
	reg := registrytest.New(registrytest.Options{})
	defer reg.Close()
	p := start(t, root, nil)
	running, img := p.runImage(reg)
	check(t, mount.UnmountAll(running, 0))
	p.stop(unix.SIGTERM)
	check(t, appendFile(filepath.Join(root, "config.toml"), "[holder]\ndisable = true\n"))
	for range 2 {
		p = start(t, root, nil)
		checkFiles(t, must(p.sn.Mounts(namespaces.WithNamespace(t.Context(), "k8s.io"), "container"))(t), img.files)
		p.stop(unix.SIGTERM)
		if mounted(t, root) {
			t.Error("the mount is left")
		}
	}
	await(t, "the holder ends", func() bool { return holderOf(root) == 0 })
}

// TestSystemdStore kills daemon and holder: systemd has the mount.
func TestSystemdStore(t *testing.T) {
	root := testRoot(t)
	reg := registrytest.New(registrytest.Options{})
	defer reg.Close()
	check(t, os.Mkdir(filepath.Join(root, "run"), 0o700))
	l := must(net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(root, "run", "d.sock"), Net: "unix"}))(t)
	defer l.Close()
	socket := must(l.File())(t)
	defer socket.Close()
	activated := func(passed map[string]*os.File) *process {
		files, names := []*os.File{socket}, []string{"soci-snapshotter.socket"}
		for name, f := range passed {
			files, names = append(files, f), append(names, name)
		}
		t.Setenv("LISTEN_FDS", fmt.Sprint(len(files)))
		t.Setenv("LISTEN_FDNAMES", strings.Join(names, ":"))
		return start(t, root, files, "/bin/sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh")
	}
	p := activated(nil)
	running, img := p.runImage(reg)
	if len(p.store) != 2 {
		t.Fatalf("systemd has %v", p.store)
	}
	for range 2 {
		check(t, p.cmd.Process.Kill())
		<-p.exited
		check(t, hold.Release(holderDir(filepath.Join(root, "lib"))))
		store := p.store
		p = activated(store)
		p.takenOver()
		compareFiles(t, running, img.files)
		if len(p.store) == 0 { // it is there already
			p.store = store
		}
	}
	check(t, mount.UnmountAll(running, 0))
	p.stop(unix.SIGTERM)
	for _, f := range p.store {
		f.Close()
	}
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/registry/registrytest"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// defaultKills is how often TestKills ends something; $SEEKOCI_KILLS is another number.
const defaultKills = 30

// manyFiles is the layers of an image with something for each kind of checker.
func manyFiles() [][]ztoctest.File {
	var small, big []ztoctest.File
	for i := range uint64(250) {
		name := fmt.Sprintf("dir%d/sub%d/file%d", i%7, i%3, i)
		small = append(small, ztoctest.Big(i, name, int(i*i%9000)),
			ztoctest.File{Header: tar.Header{Name: fmt.Sprintf("dir%d/link%d", i%7, i), Typeflag: tar.TypeSymlink, Linkname: name, Mode: 0o777}})
	}
	for i := range uint64(4) {
		big = append(big, ztoctest.Big(1000+i, fmt.Sprintf("big/%d", i), 5<<20+int(i)*777))
	}
	return [][]ztoctest.File{small, big}
}

// builds returns two versions of the daemon.
func builds(t *testing.T) [2]string {
	t.Helper()
	var all [2]string
	for i := range all {
		all[i] = filepath.Join(t.TempDir(), "soci-snapshotter-grpc")
		c := exec.Command("go", "build", "-buildvcs=false", "-o", all[i], "-ldflags",
			fmt.Sprintf("-X github.com/seekoci/seekoci/cmd/internal/version.Version=9.%d.0", i), ".")
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("build a daemon: %v: %s", err, out)
		}
	}
	return all
}

// watcher is a checker in a process of its own.
type watcher struct {
	cmd   *exec.Cmd
	in    io.Closer
	out   bytes.Buffer
	ended chan error
}

func startChecker(t *testing.T, kind, dir, truth string) *watcher {
	t.Helper()
	w := &watcher{cmd: exec.Command(must(os.Executable())(t), checkerArg, kind, dir, truth), ended: make(chan error, 1)}
	w.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	w.cmd.Stdout, w.cmd.Stderr = &w.out, &w.out
	w.in = must(w.cmd.StdinPipe())(t)
	check(t, w.cmd.Start())
	t.Cleanup(func() { w.cmd.Process.Kill() })
	go func() { w.ended <- w.cmd.Wait() }()
	return w
}

// over reports whether the checker has ended, which it does not before it is told to.
func (w *watcher) over() bool {
	select {
	case err := <-w.ended:
		w.ended <- err
		return true
	default:
		return false
	}
}

// holderOf returns the process that holds the root's mount, 0 if there is none.
func holderOf(root string) int {
	dir, err := os.Open(holderDir(filepath.Join(root, "lib")))
	if err != nil {
		return 0
	}
	defer dir.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	if unix.Connect(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/holder.sock", dir.Fd())}) != nil {
		return 0
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", cred.Pid))
	if err != nil {
		return 0
	}
	for _, f := range fds {
		if to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", cred.Pid, f.Name())); to == "/dev/fuse" {
			return int(cred.Pid)
		}
	}
	return 0
}

// await waits for a condition that another process will bring about.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.After(30 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("gave up waiting: %s", what)
		}
	}
}

// TestKills ends the daemon in all ways there are, and its holder, at random times while
// processes use an image in all ways there are: none of them gets an error or a wrong byte.
func TestKills(t *testing.T) {
	root := testRoot(t)
	kills, seed := defaultKills, uint64(time.Now().UnixNano())
	if s := os.Getenv("SEEKOCI_KILLS"); s != "" {
		kills = must(strconv.Atoi(s))(t)
	}
	if s := os.Getenv("SEEKOCI_SEED"); s != "" {
		seed = must(strconv.ParseUint(s, 10, 64))(t)
	}
	t.Logf("SEEKOCI_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
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
	programs := builds(t)
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	p := startProgram(t, programs[0], root, nil)
	running := t.TempDir()
	check(t, mount.All(must(p.sn.Prepare(ctx, "container", p.pull(ctx, img)))(t), running))
	t.Cleanup(func() { mount.UnmountAll(running, unix.MNT_DETACH) })

	watchers := make(map[string]*watcher)
	for kind := range checkers() {
		watchers[kind] = startChecker(t, kind, running, truth)
	}
	counts := map[string]int{}
	slowest := time.Duration(0)
	for i := range kills {
		pause(time.Duration(r.Int64N(int64(150 * time.Millisecond))))
		what := endSomehow(t, r, root, p)
		counts[what]++
		if what != "holder" {
			if r.IntN(4) == 0 { // what was read is forgotten by everyone
				counts["cold"]++
				forgetSpans(t, root)
			}
			begin := time.Now()
			p = startProgram(t, programs[r.IntN(2)], root, nil)
			slowest = max(slowest, time.Since(begin))
			p.takenOver()
		}
		for kind, w := range watchers {
			if w.over() {
				t.Fatalf("kill %d, %s: checker has ended: %s: %v\n%v", i, what, kind, w.out.String(), p.log)
			}
		}
	}
	ops, read := int64(0), int64(0)
	for kind, w := range watchers {
		check(t, w.in.Close())
		if err := <-w.ended; err != nil {
			t.Errorf("%s: %v: %s", kind, err, w.out.String())
			continue
		}
		var n, m int64
		must(fmt.Sscan(w.out.String(), &n, &m))(t)
		if n == 0 {
			t.Errorf("%s: no operations", kind)
		}
		ops, read = ops+n, read+m
	}
	t.Logf("%v, slowest start %v, %d operations, %d MB compared", counts, slowest, ops, read>>20)
	check(t, mount.UnmountAll(running, 0))
	p.stop(unix.SIGTERM)
}

// endSomehow ends the daemon or its holder, and says how.
func endSomehow(t *testing.T, r *rand.Rand, root string, p *process) string {
	t.Helper()
	switch n := r.IntN(10); {
	case n < 7:
		check(t, p.cmd.Process.Kill())
		<-p.exited
		return "SIGKILL"
	case n == 7:
		p.stop(unix.SIGTERM)
		return "SIGTERM"
	case n == 8:
		p.stop(unix.SIGINT)
		return "SIGINT"
	}
	pid := 0
	await(t, "there is a holder", func() bool { pid = holderOf(root); return pid != 0 })
	check(t, unix.Kill(pid, unix.SIGKILL))
	await(t, "there is another holder", func() bool { now := holderOf(root); return now != 0 && now != pid })
	return "holder"
}

// forgetSpans has the next daemon fetch all again, and the kernel ask for all again.
func forgetSpans(t *testing.T, root string) {
	t.Helper()
	states := must(filepath.Glob(filepath.Join(root, "lib/soci/spans/*/state")))(t)
	if len(states) == 0 {
		t.Error("there is no layer's state")
	}
	for _, s := range states {
		check(t, os.Remove(s))
	}
	check(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0))
}

func appendFile(path, s string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(s)
	return errors.Join(err, f.Close())
}

// takenOver waits for the daemon to say that it has taken over the mount.
func (p *process) takenOver() {
	p.t.Helper()
	await(p.t, "the daemon says that it serves", func() bool { return p.lines("msg", "serving") > 0 })
	if p.lines("resumed", true) != 1 {
		p.t.Fatalf("mount not taken over: %v", p.log)
	}
}

// pause lets the checkers work.
func pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	<-t.C
}

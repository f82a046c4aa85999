// SPDX-License-Identifier: Apache-2.0

// Package sandbox runs the rest of a program where it can mount, start
// daemons and be killed without leaving a trace on the host.
//
// [Run] starts the program once more, in a mount namespace and a PID namespace
// of its own: its mounts are never seen by the host, /run is an empty tmpfs, so
// that the fixed paths below /run/containerd are private too, and when it ends,
// however it ends, the kernel kills every process it started. [Check] says
// beforehand whether the machine allows that.
//
//	func main() {
//		os.Exit(sandbox.Run(sandbox.Options{}, func(dir string) int {
//			// root of its own machine; dir is gone afterwards
//			return 0
//		}))
//	}
//
// # Limits
//
// Linux, root. The network is the host's: listen on 127.0.0.1, port 0. If the
// outermost process itself is killed with SIGKILL, the directory stays; nothing else does.
//
// # Decisions
//
//   - Namespaces instead of a list of things to clean up: a list is wrong the day a test dies half-way. containerd 1.6
//     puts the sockets of its shims below /run/containerd/s whatever its state directory is, and shims outlive everybody who started them.
//   - Three processes: the outer one keeps the terminal's signals and removes the directory, process 1 of the namespace
//     reaps orphans, and the program proper is process 2 and has ordinary signal rules.
package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// stageVar tells a copy of the program which of the three processes it is; dirVar where the directory is.
const (
	stageVar = "SEEKOCI_SANDBOX_STAGE"
	dirVar   = "SEEKOCI_SANDBOX_DIR"
)

// Options configures Run.
type Options struct {
	TempDir string // where the directory is made; "" means $TMPDIR or else /var/tmp, because overlayfs wants a real file system
}

// Check reports in one sentence what keeps the machine from running containers lazily; nil means nothing does.
func Check() error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed to mount file systems and to run containers (try sudo)")
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("FUSE is needed to serve layers, and /dev/fuse cannot be opened (try modprobe fuse): %w", err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	if !strings.Contains(string(known), "\toverlay\n") {
		if out, err := exec.Command("modprobe", "overlay").CombinedOutput(); err != nil {
			return fmt.Errorf("the kernel's overlayfs is needed for the layers of containers, and modprobe overlay says: %s", strings.TrimSpace(string(out)))
		}
	}
	if err := tryNamespaces(); err != nil {
		return fmt.Errorf("mount and PID namespaces are needed, and making them is not allowed here: %w", err)
	}
	return nil
}

func tryNamespaces() error {
	c := exec.Command("/bin/true")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	return c.Run()
}

// Run calls fn in the sandbox and returns its exit code, in a copy of the program that was started with the
// same arguments. fn gets an empty directory of a short name that is removed after everything in the sandbox has ended.
// SIGINT, SIGTERM and SIGHUP are passed on to the copy.
func Run(opts Options, fn func(dir string) int) int {
	var code int
	var err error
	switch os.Getenv(stageVar) {
	case "":
		code, err = outer(opts)
	case "init":
		code, err = reaper()
	default:
		dir := os.Getenv(dirVar)
		if err = errors.Join(os.Unsetenv(stageVar), os.Unsetenv(dirVar)); err == nil {
			return fn(dir)
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "sandbox: %v\n", err)
		return 1
	}
	return code
}

// outer makes the directory and the namespaces, waits, and removes the directory.
func outer(opts Options) (code int, err error) {
	// The child's parent-death signal is bound to this thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	temp := opts.TempDir
	if temp == "" {
		temp = os.Getenv("TMPDIR")
	}
	if temp == "" {
		temp = "/var/tmp"
	}
	dir, err := os.MkdirTemp(temp, "soci-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c := again("init", dir)
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // the terminal's Ctrl-C reaches us alone, and we pass it on once
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	if err := c.Start(); err != nil {
		return 0, err
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	for {
		select {
		case s := <-signals:
			if err := c.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return 0, err
			}
		case err := <-done:
			sweepCgroups(dir)
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				return 0, err
			}
			return exitCode(c.ProcessState.Sys().(syscall.WaitStatus)), nil
		}
	}
}

// again is a command that runs this program once more as the given stage.
func again(stage, dir string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Args[0] = os.Args[0]
	c.Env = append(os.Environ(), stageVar+"="+stage, dirVar+"="+dir)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	return c
}

// reaper is process 1: it makes the mounts private, starts the program proper and reaps every orphan until that ends.
func reaper() (int, error) {
	for _, m := range []struct {
		source, target, fstype string
		flags                  uintptr
		data                   string
	}{
		{"none", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
	} {
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return 0, fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	c := again("main", os.Getenv(dirVar))
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		return 0, err
	}
	go func() {
		for s := range signals {
			// The program has ended if this fails, and then so will we.
			_ = c.Process.Signal(s)
		}
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait: %w", err)
		case pid == c.Process.Pid:
			return exitCode(status), nil // and the kernel kills the rest
		}
	}
}

// exitCode is what a shell would say.
func exitCode(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

// CgroupParent is the name of the cgroup below which the containers of the sandbox at dir belong: with containerd,
// the namespace to use. What is left of it when the sandbox ends is removed.
func CgroupParent(dir string) string { return filepath.Base(dir) }

// sweepCgroups removes the empty cgroups that containers killed with the namespace have left. Only
// empty ones can be removed, so that whatever fails here is harmless.
func sweepCgroups(dir string) {
	for _, pattern := range []string{"/sys/fs/cgroup/%s", "/sys/fs/cgroup/*/%s"} {
		roots, err := filepath.Glob(fmt.Sprintf(pattern, CgroupParent(dir)))
		if err != nil {
			continue
		}
		for _, root := range roots {
			children, _ := filepath.Glob(root + "/*/")
			for _, child := range append(children, root) {
				_ = unix.Rmdir(child)
			}
		}
	}
}

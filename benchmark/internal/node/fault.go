// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// SetConfig replaces what was appended to the snapshotter's config.toml. It counts from the next start on.
func (n *Node) SetConfig(config string) { n.config = config }

// SnapshotterPid is the snapshotter's process id, 0 while it does not run.
func (n *Node) SnapshotterPid() int {
	if n.snapshotter == nil {
		return 0
	}
	return n.snapshotter.Pid()
}

// SnapshotterEnded reports whether the snapshotter has ended without having been stopped.
func (n *Node) SnapshotterEnded() bool {
	if n.snapshotter == nil {
		return false
	}
	select {
	case <-n.snapshotter.done:
		return true
	default:
		return false
	}
}

// StopContainerd ends containerd alone: its shims and containers go on.
func (n *Node) StopContainerd(sig unix.Signal) error {
	p, c := n.containerd, n.Client
	n.containerd, n.Client = nil, nil
	err := p.Stop(sig)
	if c != nil {
		err = errors.Join(err, c.Close())
	}
	return err
}

// StartContainerd starts containerd again after StopContainerd.
func (n *Node) StartContainerd(ctx context.Context) error { return n.startContainerd(ctx) }

// HolderPid is the process that holds the snapshotter's mount, 0 if there is none.
func (n *Node) HolderPid() (int, error) {
	dir, err := os.Open(filepath.Join(n.SnapshotterRoot(), "soci", "holder"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look for the holder: %w", err)
	}
	defer dir.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("look for the holder: %w", err)
	}
	defer unix.Close(fd)
	// By its directory's descriptor: paths of sockets must be short.
	if unix.Connect(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/holder.sock", dir.Fd())}) != nil {
		return 0, nil
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, fmt.Errorf("look for the holder: %w", err)
	}
	files, err := OpenFiles(int(cred.Pid))
	if err != nil {
		return 0, nil // it has ended meanwhile
	}
	for _, f := range files {
		if f == "/dev/fuse" {
			return int(cred.Pid), nil
		}
	}
	return 0, nil // it has not been given the mount yet
}

// OpenFiles lists what a process has open, one string for each descriptor, as the kernel names it.
func OpenFiles(pid int) ([]string, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open files of process %d: %w", pid, err)
	}
	var files []string
	for _, fd := range fds {
		to, err := os.Readlink(filepath.Join(dir, fd.Name()))
		if err == nil { // else it was closed meanwhile
			files = append(files, to)
		}
	}
	return files, nil
}

// Resident is the resident memory of a process in bytes.
func Resident(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("memory of process %d: it has none", pid)
}

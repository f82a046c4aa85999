// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// nothing is a snapshot that there is not.
const nothing = "soci-doctor-asks"

// service looks at the daemon, its holder and its mount, and what uses that.
func (d *doctor) service(ctx context.Context) []finding {
	answer := d.daemon(ctx)
	found := []finding{answer, d.holder(ctx)}
	table, err := mountTable(filepath.Join(d.proc, "self/mountinfo"))
	if err != nil {
		return append(found, unseen("mount", err))
	}
	m, state := d.mount(table, answer.Status == statusOK)
	return append(found, m, d.containers(table, state))
}

// daemon asks the snapshotter for a snapshot that it does not have.
func (d *doctor) daemon(ctx context.Context) finding {
	const name = "snapshotter"
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", d.snapshotter)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return unseen(name, err)
		}
		return bad(statusFail, name, "start soci-snapshotter-grpc, or name its socket with --snapshotter-address", "%v", err)
	}
	c.Close()
	conn, err := grpc.NewClient("passthrough:///"+d.snapshotter, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, path string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}))
	if err != nil {
		return unseen(name, err)
	}
	defer conn.Close()
	ctx = namespaces.WithNamespace(ctx, d.env.namespace)
	_, err = snapshotsapi.NewSnapshotsClient(conn).Stat(ctx, &snapshotsapi.StatSnapshotRequest{Key: nothing})
	if err != nil && status.Code(err) != codes.NotFound {
		return bad(statusFail, name, "look at the daemon's log, and restart it", "at %s does not answer as it should: %v", d.snapshotter, err)
	}
	return ok(name, "answers at %s", d.snapshotter)
}

// holder connects to the process that keeps the mount, and says nothing to it.
func (d *doctor) holder(ctx context.Context) finding {
	const name = "holder"
	if c, err := d.readConfig(); err == nil && c.Holder.Disable {
		return bad(statusWarn, name, "remove disable from [holder] in "+d.config, "disabled: containers do not survive the daemon")
	}
	path := filepath.Join(d.root, "soci", "holder")
	dir, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return bad(statusWarn, name, "start soci-snapshotter-grpc", "there was none: %v", err)
	}
	if err != nil {
		return unseen(name, err)
	}
	defer dir.Close()
	var dialer net.Dialer
	// The path may be longer than a socket's address.
	c, err := dialer.DialContext(ctx, "unixpacket", fmt.Sprintf("/proc/self/fd/%d/holder.sock", dir.Fd()))
	if errors.Is(err, fs.ErrPermission) {
		return unseen(name, err)
	}
	if err != nil {
		return bad(statusWarn, name, "restart soci-snapshotter-grpc", "none in %s: containers do not survive the daemon", path)
	}
	defer c.Close()
	pid, err := peer(c)
	if err != nil {
		return unseen(name, err)
	}
	groups, _ := os.ReadFile(filepath.Join(d.proc, fmt.Sprint(pid), "cgroup")) // it may be out of sight
	if strings.Contains(string(groups), "kubepods") {
		return bad(statusWarn, name, "run it as a service of the host: soci-snapshotter-grpc --root "+d.root+" holder",
			"pid %d is in a pod's cgroup, and ends with the pod", pid)
	}
	score, _ := os.ReadFile(filepath.Join(d.proc, fmt.Sprint(pid), "oom_score_adj"))
	if n, err := strconv.Atoi(strings.TrimSpace(string(score))); err == nil && n > sparedScore {
		return ok(name, "pid %d; the OOM killer may end it (oom_score_adj %d), as it was started without CAP_SYS_RESOURCE", pid, n)
	}
	return ok(name, "pid %d", pid)
}

// sparedScore is the oom_score_adj of processes that the kernel kills last, if at all.
const sparedScore = -999

// peer returns the process that listens at the other end of a connection.
func peer(c net.Conn) (int, error) {
	u, isUnix := c.(*net.UnixConn)
	if !isUnix {
		return 0, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if cerr != nil {
		return 0, os.NewSyscallError("getsockopt", cerr)
	}
	return int(cred.Pid), nil
}

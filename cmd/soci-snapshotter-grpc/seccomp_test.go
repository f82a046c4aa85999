// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// filteredArg makes the test binary a program that runs another one without the system calls that the unit denies.
const filteredArg = "seekoci-test-filtered"

// denied are the system calls of the unit's SystemCallFilter that a daemon, or a library of its, might make by mistake.
// Of its groups those that are not about time, modules and rebooting.
func denied() map[string]uintptr {
	return map[string]uintptr{
		"ptrace": unix.SYS_PTRACE, "perf_event_open": unix.SYS_PERF_EVENT_OPEN, "pidfd_getfd": unix.SYS_PIDFD_GETFD, // @debug
		"add_key": unix.SYS_ADD_KEY, "keyctl": unix.SYS_KEYCTL, "request_key": unix.SYS_REQUEST_KEY, // @keyring
		"bpf": unix.SYS_BPF, "chroot": unix.SYS_CHROOT, "kcmp": unix.SYS_KCMP, "open_by_handle_at": unix.SYS_OPEN_BY_HANDLE_AT,
		"pivot_root": unix.SYS_PIVOT_ROOT, "process_vm_readv": unix.SYS_PROCESS_VM_READV, "process_vm_writev": unix.SYS_PROCESS_VM_WRITEV,
		"userfaultfd": unix.SYS_USERFAULTFD,
	}
}

// runFiltered runs args with what systemd would make of SystemCallFilter and RestrictNamespaces.
func runFiltered(args []string) error {
	const (
		flags    = 16 // of clone, in what the filter sees
		allNS    = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP
		load     = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		anyOf    = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		give     = unix.BPF_RET | unix.BPF_K
		allow    = unix.SECCOMP_RET_ALLOW
		refuse   = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		tryOther = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	)
	prog := []unix.SockFilter{{Code: load, K: 0}}
	no := func(nr uintptr, with uint32) {
		prog = append(prog, unix.SockFilter{Code: equal, Jf: 1, K: uint32(nr)}, unix.SockFilter{Code: give, K: with})
	}
	for _, nr := range denied() {
		no(nr, refuse)
	}
	no(unix.SYS_UNSHARE, refuse)
	no(unix.SYS_SETNS, refuse)
	no(unix.SYS_CLONE3, tryOther)
	prog = append(prog,
		unix.SockFilter{Code: equal, Jf: 3, K: unix.SYS_CLONE}, unix.SockFilter{Code: load, K: flags},
		unix.SockFilter{Code: anyOf, Jf: 1, K: allNS}, unix.SockFilter{Code: give, K: refuse},
		unix.SockFilter{Code: give, K: allow})
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	f := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&f)), 0, 0); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	if _, err := unix.Getpid(), unix.Chroot("/"); err != unix.EPERM {
		return fmt.Errorf("chroot under the filter: %w", err)
	}
	return fmt.Errorf("exec %s: %w", args[0], unix.Exec(args[0], args, os.Environ()))
}

// TestSystemCalls runs the daemon, and its holder, without the system calls that the unit denies: a layer is
// pulled lazily, one is unpacked, both are read, and a second daemon takes over from the first.
func TestSystemCalls(t *testing.T) {
	filter := strings.Fields(strings.TrimPrefix(strings.Join(unit(t)["SystemCallFilter"], " "), "~"))
	for name := range denied() {
		group := map[string]string{
			"ptrace": "@debug", "perf_event_open": "@debug", "pidfd_getfd": "@debug", "add_key": "@keyring", "keyctl": "@keyring", "request_key": "@keyring",
		}[name]
		if !slices.Contains(filter, name) && (group == "" || !slices.Contains(filter, group)) {
			t.Errorf("the unit does not deny %s", name)
		}
	}
	if ns := unit(t)["RestrictNamespaces"]; len(ns) != 1 || ns[0] != "yes" {
		t.Errorf("RestrictNamespaces=%v", ns)
	}
	survives(t, testRoot(t), must(os.Executable())(t), filteredArg)
}

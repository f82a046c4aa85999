// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hostPIDs is the inode of the pid namespace that a machine starts with.
const hostPIDs = 0xeffffffc

// mountEntry is a line of the kernel's mount table.
type mountEntry struct {
	dev     uint32 // minor number
	point   string
	fsType  string
	options string // of the file system
}

// mountTable reads the mount table, which asks no file system.
func mountTable(path string) ([]mountEntry, error) {
	p, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []mountEntry
	for line := range bytes.Lines(p) {
		// 36 35 98:0 /root /mountpoint options optional... - type source options
		f := strings.Fields(string(line))
		sep := slices.Index(f, "-")
		if sep < 6 || len(f) < sep+4 {
			continue
		}
		_, minor, _ := strings.Cut(f[2], ":")
		dev, err := strconv.ParseUint(minor, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("read %s: device %q: %w", path, f[2], err)
		}
		all = append(all, mountEntry{dev: uint32(dev), point: unescapeMount(f[4]), fsType: f[sep+1], options: unescapeMount(f[sep+3])})
	}
	return all, nil
}

// octal is what the kernel makes of blanks, newlines and backslashes of a name.
var octal = regexp.MustCompile(`\\[0-3][0-7]{2}`)

func unescapeMount(s string) string {
	return octal.ReplaceAllStringFunc(s, func(o string) string {
		c, err := strconv.ParseUint(o[1:], 8, 8)
		if err != nil {
			return o
		}
		return string([]byte{byte(c)})
	})
}

// user is a process that has a connection to the kernel's FUSE open.
type user struct {
	pid  int
	comm string
}

func (u user) String() string { return fmt.Sprintf("%s (pid %d)", u.comm, u.pid) }

// keeps reports whether u only holds the connection, for a daemon to take it over.
func (u user) keeps() bool { return u.pid == 1 || u.comm == "soci-holder" }

// users returns who has the connection of the file system dev open. whole is false
// if not all processes could be looked at. It reads nothing that takes a process's memory: one
// that waits for a page of the mount would make it wait as well.
func (d *doctor) users(dev uint32) (found []user, whole bool, err error) {
	processes, err := os.ReadDir(d.proc)
	if err != nil {
		return nil, false, err
	}
	var ns unix.Stat_t
	whole = unix.Stat(filepath.Join(d.proc, "self/ns/pid"), &ns) == nil && ns.Ino == hostPIDs
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join(d.proc, p.Name())
		fds, err := os.ReadDir(filepath.Join(dir, "fd"))
		if os.IsPermission(err) {
			whole = false
		}
		comm, _ := os.ReadFile(filepath.Join(dir, "comm")) // empty if the process has just ended
		u := user{pid, strings.TrimSpace(string(comm))}
		if slices.ContainsFunc(fds, func(f fs.DirEntry) bool { return u.has(dir, f.Name(), dev) }) {
			found = append(found, u)
		}
	}
	return found, whole, nil
}

// has reports whether the descriptor fd of the process is the connection of dev. Older kernels
// do not say of which: there the name has to do.
func (u user) has(dir, fd string, dev uint32) bool {
	to, err := os.Readlink(filepath.Join(dir, "fd", fd))
	if err != nil || to != "/dev/fuse" {
		return false
	}
	info, err := os.ReadFile(filepath.Join(dir, "fdinfo", fd))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(info)) {
		if n, is := strings.CutPrefix(line, "fuse_connection:"); is {
			return strings.TrimSpace(n) == strconv.FormatUint(uint64(dev), 10)
		}
	}
	return u.pid == 1 || strings.HasPrefix(u.comm, "soci-")
}

// mountState is what is known of the mount below the root.
type mountState int

const (
	mountUnknown mountState = iota
	mountMissing
	mountDead
	mountHeld
	mountServed
)

func (d *doctor) mountPoint() string { return filepath.Join(d.root, "snapshotter", "mnt") }

// mount judges the mount. serving says whether the daemon answers.
func (d *doctor) mount(table []mountEntry, serving bool) (finding, mountState) {
	const name = "mount"
	at := d.mountPoint()
	here := slices.DeleteFunc(slices.Clone(table), func(m mountEntry) bool { return m.point != at })
	if len(here) == 0 {
		if serving {
			return bad(statusFail, name, "give the daemon the host's mount namespace (no ProtectSystem=, PrivateTmp=; in a pod Bidirectional propagation), or name its --root",
				"%s: the daemon runs, and nothing is mounted here", at), mountMissing
		}
		return bad(statusWarn, name, "start soci-snapshotter-grpc", "%s: nothing is mounted", at), mountMissing
	}
	top := here[len(here)-1]
	if !strings.HasPrefix(top.fsType, "fuse") {
		return bad(statusFail, name, "unmount it, and restart soci-snapshotter-grpc", "%s: another file system is mounted there: %s", at, top.fsType), mountUnknown
	}
	found, whole, err := d.users(top.dev)
	if err != nil {
		return unseen(name, err), mountUnknown
	}
	keepers, daemons := split(found, user.keeps)
	switch {
	case len(daemons) > 0 && serving:
		return ok(name, "%s: served by %s, kept by %s", at, list(daemons), list(keepers)), mountServed
	case len(daemons) > 0:
		return bad(statusWarn, name, "wait, or look at the daemon's log", "%s: %s has it, and does not answer on its socket", at, list(daemons)), mountHeld
	case len(keepers) > 0 && serving && whole:
		return bad(statusFail, name, "check --root and --snapshotter-address; restart soci-snapshotter-grpc", "%s: kept by %s; the daemon that answers does not serve it", at, list(keepers)), mountHeld
	case len(keepers) > 0:
		return bad(statusWarn, name, "start soci-snapshotter-grpc", "%s: kept by %s, no daemon seen: what reads from it waits", at, list(keepers)), mountHeld
	case !whole:
		return bad(statusUnseen, name, "run as root, in the host's pid namespace", "%s: mounted; who serves it cannot be seen", at), mountUnknown
	}
	return bad(statusFail, name, "restart soci-snapshotter-grpc, which mounts anew, and then the containers that used it",
		"%s: dead: nobody serves or keeps it, all in it is ENOTCONN", at), mountDead
}

// split returns the users that are, and those that are not.
func split(all []user, is func(user) bool) (yes, no []user) {
	for _, u := range all {
		if is(u) {
			yes = append(yes, u)
		} else {
			no = append(no, u)
		}
	}
	return yes, no
}

func list(all []user) string {
	if len(all) == 0 {
		return "nobody"
	}
	var s []string
	for _, u := range all {
		s = append(s, u.String())
	}
	return strings.Join(s, ", ")
}

// lowerID matches the snapshot ids of an overlay's options.
var lowerID = regexp.MustCompile(`[=:/](\d+)/fs\b`)

// containers judges the overlays that have lazy layers. One that was mounted before the mount that is
// there now uses an earlier one, which is dead.
func (d *doctor) containers(table []mountEntry, state mountState) finding {
	const name = "containers"
	snapshots := filepath.Join(d.root, "snapshotter", "snapshots")
	if _, err := os.ReadDir(snapshots); err != nil && !os.IsNotExist(err) {
		return unseen(name, err)
	}
	mounted, told := mountID(d.mountPoint())
	var lazy, dead []string
	for _, m := range table {
		if m.fsType != "overlay" || !strings.Contains(m.options, snapshots+"/") || !usesLinks(snapshots, m.options) {
			continue
		}
		lazy = append(lazy, m.point)
		id, ok := mountID(m.point)
		told = told && ok
		if state == mountDead || state == mountMissing || told && state != mountUnknown && id < mounted {
			dead = append(dead, m.point)
		}
	}
	switch {
	case len(dead) > 0:
		return bad(statusFail, name, "start these again", "%d of %d with lazy layers use a dead mount: %s", len(dead), len(lazy), strings.Join(dead, " "))
	case len(lazy) == 0:
		return ok(name, "none here has lazy layers")
	case state == mountUnknown:
		return bad(statusUnseen, name, "", "%d have lazy layers; whether these are alive cannot be seen", len(lazy))
	case !told:
		return bad(statusUnseen, name, "", "%d have lazy layers; before Linux 6.8 none can be told from those of an earlier mount", len(lazy))
	}
	return ok(name, "%d have lazy layers, all of the mount that is there", len(lazy))
}

// usesLinks reports whether a snapshot of an overlay's options is a lazy one: a link into the mount,
// which is not followed.
func usesLinks(snapshots, options string) bool {
	for _, m := range lowerID.FindAllStringSubmatch(options, -1) {
		if info, err := os.Lstat(filepath.Join(snapshots, m[1], "fs")); err == nil && info.Mode()&os.ModeSymlink != 0 {
			return true
		}
	}
	return false
}

// mountID returns the number of a mount, which later ones have higher (Linux 6.8). It asks no file system.
func mountID(path string) (uint64, bool) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID_UNIQUE, &st)
	return st.Mnt_id, err == nil && st.Mask&unix.STATX_MNT_ID_UNIQUE != 0
}

// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// againAfter is how long after a failure the holder's directory is made again.
const againAfter = time.Second

// look finds out where the holder's directory is, and has the kernel tell what becomes of it.
func (h *holder) look() {
	var err error
	if h.path, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", h.dir)); err != nil {
		h.path = ""
	}
	var st unix.Stat_t
	if unix.Fstat(h.dir, &st) == nil && st.Nlink == 0 { // deleted before: the kernel says so in the name
		h.path = strings.TrimSuffix(h.path, " (deleted)")
	}
	h.notes = notes(h.dir)
}

// notes returns inotify's descriptor of what becomes of the directory, -1 if there is none:
// then it is looked at when a daemon comes or goes, which is too late only if it is deleted
// and another one comes while there is none.
func notes(dir int) int {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return -1
	}
	// Not the directory's own end: that is told when the last descriptor of it is closed.
	const what = unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, fmt.Sprintf("/proc/self/fd/%d/.", dir), what); err != nil {
		unix.Close(fd)
		return -1
	}
	return fd
}

// noted drops what the kernel has told. That it did is enough: run looks.
func (h *holder) noted() {
	p := make([]byte, 4096)
	for {
		if n, err := unix.Read(h.notes, p); n <= 0 && err != unix.EINTR {
			return
		}
	}
}

// listenOn makes the holder's directory and socket again if somebody has deleted them: the
// next daemon could not connect, and would have another holder, and another mount.
func (h *holder) listenOn(now time.Time) {
	if h.found() || now.Before(h.again) {
		return
	}
	if err := h.settle(); err != nil {
		h.again = now.Add(againAfter)
	}
}

// found reports whether a daemon finds the directory, its lock and its socket. Where that
// cannot be told, it does.
func (h *holder) found() bool {
	var st unix.Stat_t
	if h.path != "" && moved(h.dir, unix.Lstat(h.path, &st), &st) {
		return false
	}
	err := unix.Fstatat(h.dir, lockName, &st, unix.AT_SYMLINK_NOFOLLOW)
	return !moved(h.lock, err, &st) && unix.Fstatat(h.dir, socketName, &st, unix.AT_SYMLINK_NOFOLLOW) != unix.ENOENT
}

// moved reports whether a name does not lead to the file fd any more. err and st are what
// stat says of it.
func moved(fd int, err error, st *unix.Stat_t) bool {
	var is unix.Stat_t
	if err != nil || unix.Fstat(fd, &is) != nil {
		return err == unix.ENOENT
	}
	return is.Dev != st.Dev || is.Ino != st.Ino
}

// settle listens in the directory of the holder's path, which is made if needed. It is an
// error if that is another holder's already.
func (h *holder) settle() error {
	var dir int
	var err error
	if h.path != "" {
		dir, err = openDir(h.path)
	} else {
		dir, err = dupFd(h.dir)
	}
	if err != nil {
		return err
	}
	told := notes(dir) // first: what is made from here on may be deleted at once
	locked, listens := -1, -1
	if locked, err = h.relock(dir); err == nil {
		listens, err = listen(dir)
	}
	if err != nil {
		for _, fd := range []int{dir, told, locked} {
			closeFd(fd)
		}
		return err
	}
	for _, fd := range []int{h.dir, h.notes, h.lock, h.listen} {
		closeFd(fd)
	}
	h.dir, h.notes, h.lock, h.listen = dir, told, locked, listens
	return nil
}

// relock returns the lock of the directory, which is h's, or is taken.
func (h *holder) relock(dir int) (int, error) {
	var st unix.Stat_t
	err := unix.Fstatat(dir, lockName, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && !moved(h.lock, nil, &st) {
		return dupFd(h.lock)
	}
	return lock(dir)
}

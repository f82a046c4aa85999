// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// The names of the descriptors in systemd's store: the mount, and a file with its state.
const (
	storeMount = "soci-mount"
	storeState = "soci-mount-state"
)

// Store is systemd's file descriptor store of the daemon's unit.
type Store struct {
	socket string // of systemd

	mu    sync.Mutex
	files map[string][]int // what systemd has passed, by name; guarded by mu
}

// NewStore returns the store behind socket, which is $NOTIFY_SOCKET, or nil if that is
// empty. Of the files that systemd has passed to the process it takes those that are its
// own; the others are returned.
func NewStore(socket string, passed []*os.File) (*Store, []*os.File) {
	s := &Store{socket: socket, files: make(map[string][]int)}
	rest := slices.DeleteFunc(slices.Clone(passed), func(f *os.File) bool {
		ours := f.Name() == storeMount || f.Name() == storeState
		if ours {
			if fd, err := detach(f); err == nil {
				s.files[f.Name()] = append(s.files[f.Name()], fd)
			}
		}
		return ours
	})
	if socket == "" {
		return nil, rest
	}
	return s, rest
}

// detach closes a file of which it returns a duplicate, with nothing of Go's attached: its
// poller would be woken for each of the mount's requests, and File.Fd would have a guard block.
func detach(f *os.File) (int, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	if e := conn.Control(func(old uintptr) { fd, err = dupFd(int(old)) }); e != nil {
		return -1, e
	}
	_ = f.Close() // of a descriptor that was only passed on
	return fd, err
}

// held returns the mounts that systemd has passed. Their descriptors stay the store's.
func (s *Store) held() []held {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []held
	mounts, states := s.files[storeMount], s.files[storeState]
	for i := range min(len(mounts), len(states)) {
		p := make([]byte, maxMessage)
		n, err := unix.Pread(states[i], p, 0)
		if err != nil {
			continue
		}
		all = append(all, held{mounts[i], p[:n]})
	}
	return all
}

// put puts h into the store, in the place of what is there, unless it is. A mount that has
// ended may have had the state of the one after it: device numbers are used again.
func (s *Store) put(h held) error {
	if was := s.held(); len(was) == 1 && slices.Equal(was[0].state, h.state) && live(was[0].fd) {
		return nil
	}
	if err := s.drop(); err != nil {
		return err
	}
	fd, err := unix.MemfdCreate(storeState, unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, h.state); err != nil {
		return os.NewSyscallError("write", err)
	}
	return errors.Join(s.notify("FDSTORE=1\nFDNAME="+storeState, fd), s.notify("FDSTORE=1\nFDPOLL=0\nFDNAME="+storeMount, h.fd))
}

// live reports whether a mount's connection to the kernel has not ended.
func live(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	for {
		if _, err := unix.Poll(p, 0); err != unix.EINTR {
			return err == nil && p[0].Revents&(unix.POLLERR|unix.POLLNVAL) == 0
		}
	}
}

// drop empties the store.
func (s *Store) drop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, fds := range s.files {
		for _, fd := range fds {
			errs = append(errs, unix.Close(fd))
		}
	}
	clear(s.files)
	for _, name := range []string{storeMount, storeState} {
		errs = append(errs, s.notify("FDSTOREREMOVE=1\nFDNAME="+name, -1))
	}
	return errors.Join(errs...)
}

// notify tells systemd something, and passes it the descriptor fd if that is not -1.
func (s *Store) notify(state string, fd int) error {
	conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(conn)
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	// A name that begins with @ is abstract, in $NOTIFY_SOCKET as for this package.
	if err := unix.Sendmsg(conn, []byte(state), oob, &unix.SockaddrUnix{Name: s.socket}, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("notify %s: %w", s.socket, err)
	}
	return nil
}

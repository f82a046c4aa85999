// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The names in the holder's directory.
const (
	socketName = "holder.sock"
	lockName   = "holder.lock"
)

// openDir opens the holder's directory, which is made if needed.
func openDir(dir string) (int, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return -1, err
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

// address returns the address of the socket in the directory.
func address(dir int) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir, socketName)}
}

// dial connects to the holder of the directory.
func dial(dir int) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, address(dir)); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	if err := checkPeer(fd); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// listen makes the socket in the directory. Whoever has the lock may do so.
func listen(dir int) (int, error) {
	if err := unix.Unlinkat(dir, socketName, 0); err != nil && err != unix.ENOENT {
		return -1, os.NewSyscallError("unlink", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	err = os.NewSyscallError("fchmod", unix.Fchmod(fd, 0o600)) // of the file that bind makes
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, address(dir)))
	}
	if err == nil {
		err = os.NewSyscallError("listen", unix.Listen(fd, 16))
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// errLocked says that the directory has a holder.
var errLocked = errors.New("there is another holder")

// lock takes the lock of the directory, for as long as the descriptor is open.
func lock(dir int) (int, error) {
	fd, err := unix.Openat(dir, lockName, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return -1, os.NewSyscallError("open", err)
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unix.Close(fd)
		if err == unix.EWOULDBLOCK {
			return -1, errLocked
		}
		return -1, os.NewSyscallError("flock", err)
	}
	return fd, nil
}

// checkPeer returns an error if the other side is another user.
func checkPeer(fd int) error {
	c, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if int(c.Uid) != os.Geteuid() {
		return fmt.Errorf("the other side is user %d", c.Uid)
	}
	return nil
}

// send sends a message, with the descriptor fd if that is not -1.
func send(conn int, m message, fd int) error {
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	for {
		err := unix.Sendmsg(conn, m.marshal(), oob, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return os.NewSyscallError("sendmsg", err)
		}
	}
}

// errEnd says that the other side has closed the connection.
var errEnd = errors.New("the connection has ended")

// receive receives a message, and the descriptor that came with it or -1, into buf of maxMessage bytes.
func receive(conn int, buf []byte) (message, int, error) {
	oob := make([]byte, unix.CmsgSpace(8*4))
	for {
		n, oobn, flags, _, err := unix.Recvmsg(conn, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err == unix.ECONNRESET {
			return message{}, -1, errEnd
		}
		if err != nil {
			return message{}, -1, os.NewSyscallError("recvmsg", err)
		}
		fd := received(oob[:oobn])
		if n == 0 {
			closeFd(fd)
			return message{}, -1, errEnd
		}
		m, err := parse(buf[:n])
		if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
			err = errMessage
		}
		if err != nil {
			closeFd(fd)
			return m, -1, err
		}
		return m, fd, nil
	}
}

// received returns the first descriptor of a control message, and closes the others.
func received(oob []byte) int {
	fd := -1
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fd
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, f := range fds {
			if fd < 0 {
				fd = f
			} else {
				unix.Close(f)
			}
		}
	}
	return fd
}

func closeFd(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}

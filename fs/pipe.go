// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// pipeSize has room for a reply with a header of a page of its own and a payload that is not
// page aligned in its file.
const pipeSize = 2 * maxRead

// pipe moves pages between files. The zero pipe is closed.
type pipe struct {
	r, w int
	ok   bool
	err  error // why there is none, for good
}

// open makes the pipe, if there is none yet.
func (p *pipe) open() error {
	if p.ok || p.err != nil {
		return p.err
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	p.r, p.w, p.ok = fds[0], fds[1], true
	if _, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, pipeSize); err != nil {
		p.close()
		p.err = os.NewSyscallError("fcntl", err)
		return p.err
	}
	return nil
}

// close closes the pipe, with what is in it.
func (p *pipe) close() {
	if p.ok {
		_ = unix.Close(p.r)
		_ = unix.Close(p.w)
		p.ok = false
	}
}

// load puts header, and behind it the n bytes of the file fd at off, into the pipe.
func (p *pipe) load(header []byte, fd int, off int64, n int) error {
	if err := p.open(); err != nil {
		return err
	}
	k, err := unix.Write(p.w, header)
	if err == nil && k != len(header) {
		err = io.ErrShortWrite
	}
	if err != nil {
		p.close()
		return os.NewSyscallError("write", err)
	}
	for n > 0 {
		k, err := unix.Splice(fd, &off, p.w, nil, n, unix.SPLICE_F_NONBLOCK)
		if err == unix.EINTR {
			continue
		}
		if err == nil && k == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			p.close()
			return os.NewSyscallError("splice", err)
		}
		n -= int(k)
	}
	return nil
}

// send sends the n bytes that are in the pipe to the file fd, which takes them as one.
func (p *pipe) send(fd, n int) error {
	k, err := unix.Splice(p.r, nil, fd, nil, n, 0)
	if err == nil && int(k) != n {
		err = io.ErrShortWrite
	}
	if err != nil {
		p.close()
	}
	return err
}

// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// firstWait is how long a holder without a mount waits for a daemon.
	firstWait = 10 * time.Second
	maxConns  = 16
	// idleGrace is what a guard's grace is until a daemon has said it.
	idleGrace = time.Second
	// memoryLimit is soft. The holder needs next to nothing.
	memoryLimit = 16 << 20
)

// holder is the process that holds a mount.
type holder struct {
	dir    int
	lock   int    // of dir
	path   string // of dir; "" if it is not known
	notes  int    // inotify's: of what becomes of dir; -1: none
	listen int
	again  time.Time // when to look for dir again: it could not be made
	deaf   time.Time // until when no connections are taken: there is no room for one
	conns  []int
	daemon int // of conns; -1: none
	fd     int // the mount; -1: none
	state  []byte
	guard  *guard // of fd
	total  counters
	stay   bool // with nothing to hold, too
	began  time.Time
	grace  time.Duration
	limit  time.Duration
	buf    []byte
}

// Serve is the holder of the directory until the mount that it holds is gone, or until it
// is killed if stay is Stay. It is for a process that does nothing else, and which ends,
// or does not, at the signals that ask for it: see Lifetime.
func Serve(dir string, stay Lifetime) error {
	fd, err := openDir(dir)
	if err != nil {
		return fmt.Errorf("hold in %s: %w", dir, err)
	}
	if err := serve(fd, stay, func() {}); err != nil {
		return fmt.Errorf("hold in %s: %w", dir, err)
	}
	return nil
}

// Lifetime says when a holder ends.
type Lifetime int

// The lifetimes of a holder.
const (
	WithMount Lifetime = iota // with the mount that it holds, and at no signal but SIGKILL
	Stay                      // at any signal
)

// serve is Serve for the directory with the descriptor dir. It calls ready when daemons can connect.
func serve(dir int, stay Lifetime, ready func()) error {
	asked := []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2}
	if stay == Stay {
		signal.Reset(asked...)
	} else {
		signal.Ignore(asked...)
	}
	signal.Ignore(unix.SIGPIPE)
	debug.SetMemoryLimit(memoryLimit)
	_ = os.WriteFile("/proc/self/comm", []byte("soci-holder"), 0)
	spare()
	locked, err := lock(dir)
	if err != nil {
		return err
	}
	recordCrash(dir)
	l, err := listen(dir)
	if err != nil {
		return err
	}
	h := &holder{dir: dir, lock: locked, listen: l, daemon: -1, fd: -1, stay: stay == Stay, began: time.Now(), grace: idleGrace, limit: DefaultGuard, buf: make([]byte, maxMessage)}
	h.look()
	ready()
	return h.run()
}

// spare has the kernel kill others first when memory runs out, the daemon among them, where
// that is allowed: of those with -1000 none is killed.
func spare() {
	for _, score := range []string{"-1000", "-999"} {
		if os.WriteFile("/proc/self/oom_score_adj", []byte(score), 0) == nil {
			return
		}
	}
}

// run runs until there is no use in it.
func (h *holder) run() error {
	for !h.useless(time.Now()) {
		now := time.Now()
		h.listenOn(now)
		fds := []unix.PollFd{{Fd: int32(h.listen), Events: unix.POLLIN}, {Fd: int32(h.notes), Events: unix.POLLIN}}
		if now.Before(h.deaf) {
			fds[0].Fd = -1 // of which poll says nothing
		}
		for _, c := range h.conns {
			fds = append(fds, unix.PollFd{Fd: int32(c), Events: unix.POLLIN})
		}
		if h.guarding() {
			p := unix.PollFd{Fd: int32(h.fd)}
			if h.guard.reading {
				p.Events = unix.POLLIN
			}
			fds = append(fds, p)
		}
		if _, err := unix.Poll(fds, h.timeout(time.Now())); err != nil && err != unix.EINTR && err != unix.ENOMEM {
			return os.NewSyscallError("poll", err)
		}
		// Daemons first: where one is, the guard is to take no more requests.
		for _, p := range fds[2 : 2+len(h.conns)] {
			if c := int(p.Fd); p.Revents != 0 && slices.Contains(h.conns, c) {
				h.serveConn(c)
			}
		}
		if fds[0].Revents != 0 {
			h.accept(time.Now())
		}
		if fds[1].Revents != 0 {
			h.noted()
		}
		if h.guarding() {
			h.watch(fds[len(fds)-1])
		}
	}
	return nil
}

// useless reports whether the holder can end.
func (h *holder) useless(now time.Time) bool {
	return !h.stay && h.fd < 0 && len(h.conns) == 0 && now.Sub(h.began) >= h.patience()
}

// patience is how long a holder waits for its first daemon. One that has had any has none.
func (h *holder) patience() time.Duration {
	if h.began.IsZero() {
		return 0
	}
	return firstWait
}

func (h *holder) guarding() bool { return h.guard != nil && h.guard.on }

// timeout returns for how many milliseconds there is nothing to do, -1 for ever.
func (h *holder) timeout(now time.Time) int {
	d := time.Duration(-1)
	if h.guarding() {
		d = h.guard.next(now)
	} else if !h.stay && h.fd < 0 && len(h.conns) == 0 {
		d = max(0, h.patience()-now.Sub(h.began))
	}
	for _, at := range []time.Time{h.deaf, h.again} {
		if left := at.Sub(now); left > 0 && (d < 0 || left < d) {
			d = left
		}
	}
	if d < 0 {
		return -1
	}
	return int((d + time.Millisecond - 1) / time.Millisecond)
}

// watch has the guard do its work. p is what poll says of the mount, or of something else.
func (h *holder) watch(p unix.PollFd) {
	if int(p.Fd) == h.fd && p.Revents&(unix.POLLERR|unix.POLLNVAL) != 0 {
		h.drop() // unmounted, or the connection was aborted
		return
	}
	h.guard.tick(time.Now())
	if int(p.Fd) == h.fd && h.guard.reading && p.Revents&unix.POLLIN != 0 {
		h.guard.read()
	}
}

// deafFor is how long no connections are taken once there was no room for one. Poll
// would say at once that it is still there.
const deafFor = 100 * time.Millisecond

// accept takes a connection.
func (h *holder) accept(now time.Time) {
	c, _, err := unix.Accept4(h.listen, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err == unix.EMFILE || err == unix.ENFILE || err == unix.ENOBUFS || err == unix.ENOMEM {
		h.deaf = now.Add(deafFor)
	}
	if err != nil {
		return
	}
	if len(h.conns) >= maxConns || checkPeer(c) != nil {
		unix.Close(c)
		return
	}
	h.conns = append(h.conns, c)
}

// serveConn serves a message of the connection.
func (h *holder) serveConn(c int) {
	m, fd, err := receive(c, h.buf)
	if errors.Is(err, unix.EAGAIN) {
		return
	}
	if err != nil {
		h.hangUp(c)
		return
	}
	reply, with := h.answer(c, m, fd)
	if send(c, reply, with) != nil {
		h.hangUp(c)
	}
}

// hangUp ends a connection. If it was the daemon's, the guard begins.
func (h *holder) hangUp(c int) {
	unix.Close(c)
	h.conns = slices.DeleteFunc(h.conns, func(x int) bool { return x == c })
	if c != h.daemon {
		return
	}
	h.daemon = -1
	if h.guard != nil {
		h.guard.grace, h.guard.limit = h.grace, h.limit
		h.guard.begin(time.Now())
	}
}

// answer does what a message asks for, and returns the reply and the descriptor that goes with it.
func (h *holder) answer(c int, m message, fd int) (message, int) {
	defer closeFd(fd)
	failed := func(err error) (message, int) {
		return message{msgFailed, map[uint32][]byte{tagError: []byte(err.Error())}}, -1
	}
	switch m.kind {
	case msgHello:
		return h.hello(c, m)
	case msgHold:
		if c != h.daemon {
			return failed(errors.New("only the daemon may have something held"))
		}
		if err := h.hold(fd, m.fields[tagState]); err != nil {
			return failed(err)
		}
	case msgDrop:
		if h.daemon >= 0 && c != h.daemon {
			return message{kind: msgBusy}, -1
		}
		h.drop()
	default:
		return message{kind: msgUnknown}, -1
	}
	return message{kind: msgOK}, -1
}

// hello makes c the daemon.
func (h *holder) hello(c int, m message) (message, int) {
	if h.daemon >= 0 && h.daemon != c {
		if alive(h.daemon) {
			return message{kind: msgBusy}, -1
		}
		h.hangUp(h.daemon)
	}
	h.daemon, h.began = c, time.Time{}
	h.grace, h.limit = time.Duration(m.number(tagGrace)), time.Duration(m.number(tagGuard))
	reply := message{msgOK, map[uint32][]byte{}}
	if h.guard != nil {
		h.guard.end()
		reply.fields[tagState] = h.state
		h.total = h.guard.counters
	}
	reply.fields[tagStats] = h.total.marshal()
	return reply, h.fd
}

// alive reports whether the other side of a connection is there.
func alive(c int) bool {
	n, _, err := unix.Recvfrom(c, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return n > 0 || err == unix.EAGAIN || err == unix.EINTR
}

// hold holds a duplicate of fd in the place of what is held.
func (h *holder) hold(fd int, state []byte) error {
	if fd < 0 || len(state) == 0 {
		return errMessage
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	g, err := newGuard(dup)
	if err != nil {
		unix.Close(dup)
		return err
	}
	h.drop()
	g.counters = h.total
	h.fd, h.state, h.guard = dup, slices.Clone(state), g
	return nil
}

// drop lets go of what is held.
func (h *holder) drop() {
	if h.guard == nil {
		return
	}
	h.total = h.guard.counters
	h.guard.end()
	h.guard.close()
	unix.Close(h.fd)
	h.fd, h.state, h.guard = -1, nil, nil
}

// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"os"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/fs/internal/proc"
)

// The kernel's numbers of the requests that get no reply, and of the notification that
// what was not answered is to be delivered again.
const (
	opForget      = 2
	opInterrupt   = 36
	opBatchForget = 42
	noteResend    = 7
)

const (
	bufferSize = 16 << 10 // the kernel wants to be able to write 8 KiB at least
	killPoll   = 100 * time.Millisecond
	// maxWaiting bounds the requests that wait; more of them fail at once.
	maxWaiting = 1 << 18
	headerSize = int(unsafe.Sizeof(fuse.OutHeader{}))
	// maxBatch bounds the requests that are taken before daemons are looked after again.
	// Who gets EIO may ask again at once, for ever.
	maxBatch = 64
)

// guard takes a mount's requests while no daemon does.
type guard struct {
	fd     int
	buf    []byte // locked: see newGuard
	grace  time.Duration
	limit  time.Duration // negative: none
	killed func(tid uint32) bool
	counters

	on      bool
	since   time.Time         // when it began
	reading bool              // the grace is over
	expired bool              // the limit is
	waiting map[uint64]uint32 // threads by request
	signals map[uint64]uint32 // those of waiting that got a signal
	looked  time.Time         // when those were last looked at
}

// newGuard returns the guard of the mount fd. The room for a request is locked: when a
// thread is killed as the kernel hands it a request, and the page to write that to is not
// resident, the request fails instead of waiting on.
func newGuard(fd int) (*guard, error) {
	mem, err := unix.Mmap(-1, 0, bufferSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	// Where these are not allowed or not known, all works as long as nobody kills us.
	_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE)
	_ = unix.Mlock(mem)
	clear(mem)
	return &guard{fd: fd, buf: mem, killed: proc.Killed}, nil
}

func (g *guard) close() { _ = unix.Munmap(g.buf) }

// begin begins: there is no daemon.
func (g *guard) begin(now time.Time) {
	g.on, g.since, g.reading, g.expired = true, now, false, false
	g.waiting, g.signals = make(map[uint64]uint32), make(map[uint64]uint32)
	g.guards++
	_ = unix.SetNonblock(g.fd, true) // of a descriptor that is open
}

// end ends: there is a daemon. It has to have delivered again what waits.
func (g *guard) end() {
	if !g.on {
		return
	}
	g.on, g.waiting, g.signals = false, nil, nil
	_ = unix.SetNonblock(g.fd, false)
}

// next returns how long from now there is nothing to do unless a request comes; negative: forever.
func (g *guard) next(now time.Time) time.Duration {
	switch {
	case !g.on:
		return -1
	case !g.reading:
		return max(0, g.grace-now.Sub(g.since))
	case len(g.signals) > 0:
		return max(0, killPoll-now.Sub(g.looked))
	case g.expired || g.limit < 0:
		return -1
	}
	return max(0, g.limit-now.Sub(g.since))
}

// tick does what it is time for.
func (g *guard) tick(now time.Time) {
	if !g.on {
		return
	}
	if !g.reading && now.Sub(g.since) >= g.grace {
		g.reading = true
		g.resend()
	}
	if !g.reading {
		return
	}
	if !g.expired && g.limit >= 0 && now.Sub(g.since) >= g.limit {
		g.expired = true
		for unique := range g.waiting {
			g.fail(unique)
		}
	}
	if now.Sub(g.looked) < killPoll {
		return
	}
	g.looked = now
	for unique, tid := range g.signals {
		g.look(unique, tid)
	}
}

// look lets a request's reader go if it is being killed.
func (g *guard) look(unique uint64, tid uint32) {
	if !g.killed(tid) {
		return
	}
	g.killedNow(unique)
}

func (g *guard) killedNow(unique uint64) {
	g.counters.killed++
	g.reply(unique, unix.EINTR)
}

func (g *guard) fail(unique uint64) {
	g.counters.failed++
	g.reply(unique, unix.EIO)
}

// read takes requests, if there are any.
func (g *guard) read() {
	for range maxBatch {
		n, err := unix.Read(g.fd, g.buf)
		if err == unix.EINTR || err == unix.ENOENT { // the latter: it was interrupted on the way
			continue
		}
		if err != nil || n < int(unsafe.Sizeof(fuse.InHeader{})) {
			return // none; or the mount is gone, which poll says
		}
		g.take(g.buf[:n])
	}
}

// take takes a request.
func (g *guard) take(p []byte) {
	h := (*fuse.InHeader)(unsafe.Pointer(unsafe.SliceData(p)))
	switch {
	case h.Opcode == opForget || h.Opcode == opBatchForget:
	case h.Opcode == opInterrupt:
		if len(p) >= int(unsafe.Sizeof(fuse.InterruptIn{})) {
			g.interrupt((*fuse.InterruptIn)(unsafe.Pointer(h)).Unique)
		}
	case g.expired || len(g.waiting) >= maxWaiting:
		g.fail(h.Unique)
	default:
		g.waiting[h.Unique] = h.Pid
	}
}

// interrupt notes that a request's reader got a signal. The kernel says so once, at the
// first signal of any kind: a reader that goes on may be killed later.
func (g *guard) interrupt(unique uint64) {
	tid, ok := g.waiting[unique]
	if !ok {
		return
	}
	g.signals[unique] = tid
	g.look(unique, tid)
}

// reply ends a request.
func (g *guard) reply(unique uint64, errno unix.Errno) {
	delete(g.waiting, unique)
	delete(g.signals, unique)
	g.write(fuse.OutHeader{Length: uint32(headerSize), Status: -int32(errno), Unique: unique})
}

// resend has the kernel deliver again what was taken and not answered.
func (g *guard) resend() {
	g.resends++
	g.write(fuse.OutHeader{Length: uint32(headerSize), Status: noteResend})
}

// write writes to the kernel. That the request is no more is no failure.
func (g *guard) write(h fuse.OutHeader) {
	_, _ = unix.Write(g.fd, unsafe.Slice((*byte)(unsafe.Pointer(&h)), headerSize))
}

// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// kernel is the other side of a guard's descriptor.
type kernel struct {
	t  testing.TB
	fd int
}

func (k *kernel) request(opcode uint32, unique uint64, pid uint32) {
	k.t.Helper()
	h := fuse.InHeader{Opcode: opcode, Unique: unique, Caller: fuse.Caller{Pid: pid}}
	h.Length = uint32(unsafe.Sizeof(h))
	check(k.t, unix.Send(k.fd, unsafe.Slice((*byte)(unsafe.Pointer(&h)), h.Length), 0))
}

func (k *kernel) interrupt(unique uint64) {
	k.t.Helper()
	in := fuse.InterruptIn{InHeader: fuse.InHeader{Opcode: opInterrupt, Unique: unique | 1}, Unique: unique}
	check(k.t, unix.Send(k.fd, unsafe.Slice((*byte)(unsafe.Pointer(&in)), unsafe.Sizeof(in)), 0))
}

// replies returns what the guard has written.
func (k *kernel) replies() map[uint64]int32 {
	k.t.Helper()
	m := make(map[uint64]int32)
	for {
		buf := make([]byte, 64)
		n, _, err := unix.Recvfrom(k.fd, buf, unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			return m
		}
		check(k.t, err)
		h := (*fuse.OutHeader)(unsafe.Pointer(unsafe.SliceData(buf)))
		if n != headerSize || int(h.Length) != n {
			k.t.Errorf("reply of %d bytes, says %d", n, h.Length)
		}
		m[h.Unique] = h.Status
	}
}

func newKernel(t testing.TB) (*kernel, *guard) {
	t.Helper()
	fds := must(unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0))(t)
	g := must(newGuard(fds[0]))(t)
	t.Cleanup(func() {
		g.close()
		unix.Close(fds[0])
		unix.Close(fds[1])
	})
	return &kernel{t, fds[1]}, g
}

func TestGuard(t *testing.T) {
	k, g := newKernel(t)
	dead := map[uint32]bool{}
	g.killed = func(tid uint32) bool { return dead[tid] }
	g.grace, g.limit = time.Second, time.Minute
	now := time.Now()
	want := func(what string, m map[uint64]int32) {
		t.Helper()
		got := k.replies()
		if len(got) != len(m) {
			t.Errorf("%s: replies are %v, want %v", what, got, m)
		}
		for u, s := range m {
			if got[u] != s {
				t.Errorf("%s: replies are %v, want %v", what, got, m)
			}
		}
	}
	none := map[uint64]int32{}

	if g.next(now) >= 0 {
		t.Error("there is something to do without a guard")
	}
	g.begin(now)
	if d := g.next(now); d != g.grace {
		t.Errorf("next after %v", d)
	}
	g.tick(now.Add(g.grace - 1))
	want("before the grace is over", none)
	now = now.Add(g.grace)
	g.tick(now)
	want("after the grace", map[uint64]int32{0: noteResend})
	if d := g.next(now); d != g.limit-g.grace {
		t.Errorf("next after %v", d)
	}

	k.request(15, 2, 100)
	k.request(1, 4, 200)
	k.request(opForget, 6, 0)
	k.request(opBatchForget, 8, 0)
	k.interrupt(2)
	k.interrupt(4)
	k.interrupt(99)
	dead[100] = true
	g.read()
	want("of one that is killed", map[uint64]int32{2: -int32(unix.EINTR)})
	if d := g.next(now); d > killPoll {
		t.Errorf("next after %v", d)
	}
	dead[200] = true // after a signal that was none of a killed process
	g.tick(now)
	want("at once", none)
	now = now.Add(killPoll)
	g.tick(now)
	want("later", map[uint64]int32{4: -int32(unix.EINTR)})

	k.request(15, 10, 300)
	k.request(15, 12, 300)
	g.read()
	now = now.Add(g.limit)
	g.tick(now)
	want("at the limit", map[uint64]int32{10: -int32(unix.EIO), 12: -int32(unix.EIO)})
	k.request(1, 14, 300)
	k.request(opForget, 16, 300)
	g.read()
	want("after the limit", map[uint64]int32{14: -int32(unix.EIO)})
	if g.next(now) >= 0 {
		t.Error("there is something left to do")
	}
	if g.counters != (counters{guards: 1, resends: 1, killed: 2, failed: 3}) {
		t.Errorf("counters are %+v", g.counters)
	}
	g.end()
	if flags := must(unix.FcntlInt(uintptr(g.fd), unix.F_GETFL, 0))(t); flags&unix.O_NONBLOCK != 0 {
		t.Error("the descriptor is non-blocking afterwards")
	}

	// A guard without a limit, and one with more waiters than it can know.
	g.limit = -1
	g.begin(now)
	now = now.Add(time.Hour)
	g.tick(now)
	k.replies()
	k.request(15, 20, 300)
	g.read()
	now = now.Add(time.Hour)
	g.tick(now)
	want("without a limit", none)
	if g.next(now) >= 0 {
		t.Error("there is something to do without a limit")
	}
	for u := uint64(1000); len(g.waiting) < maxWaiting; u++ {
		g.waiting[u] = 1
	}
	k.request(15, 22, 300)
	g.read()
	want("of one too many", map[uint64]int32{22: -int32(unix.EIO)})
}

// TestGuardHostile has the kernel send what it never would.
func TestGuardHostile(t *testing.T) {
	k, g := newKernel(t)
	g.begin(time.Now().Add(-time.Hour))
	g.tick(time.Now())
	for _, n := range []int{1, 39, 40, 47, bufferSize} {
		p := make([]byte, n)
		if n >= 40 {
			p[4] = opInterrupt
		}
		check(t, unix.Send(k.fd, p, 0))
		g.read()
	}
	if len(g.waiting)+len(g.signals) != 0 {
		t.Errorf("waiting are %v, %v", g.waiting, g.signals)
	}
}

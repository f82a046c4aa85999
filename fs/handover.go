// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// resumeServer returns the server of the mount of rec, which another process has served,
// with the descriptor dev, which it owns if there is no error.
func resumeServer(f *FS, dev int, rec *record) (*server, error) {
	opts := f.mountOptions()
	// Whatever this version would like, it is what the kernel was told that holds.
	has := agreed(rec.reply)
	opts.ExtraCapabilities |= has
	opts.DisabledCapabilities &^= has
	s := makeServer(f, dev, opts)
	s.resumed = true
	if err := s.recall(rec, has); err != nil {
		s.workers.close()
		return nil, err
	}
	return s, nil
}

// recall tells go-fuse what the kernel's first request was, and that it was granted has.
func (s *server) recall(rec *record, has uint64) error {
	w, err := s.workers.get()
	if err != nil {
		return err
	}
	defer s.workers.put(w)
	n := copy(w.in, rec.request)
	in := (*fuse.InitIn)(unsafe.Pointer(unsafe.SliceData(w.in)))
	if in.Opcode != opInit {
		return fmt.Errorf("first FUSE request was %d", in.Opcode)
	}
	in.Flags &= uint32(has)
	in.Flags2 &= uint32(has >> 32)
	p := s.handle(w, n)
	if len(p) < headerSize+int(unsafe.Sizeof(fuse.InitOut{})) {
		return fmt.Errorf("first FUSE request is not answered any more: reply %x", p)
	}
	if now := agreed(p); now&^fuse.CAP_INIT_EXT != has&^fuse.CAP_INIT_EXT {
		return fmt.Errorf("capabilities are %x, %x were agreed on", now, has)
	}
	return nil
}

// leaveEvery is how often the loops are looked for that still wait for a request.
const leaveEvery = 5 * time.Millisecond

// handOver ends the serving without the mount, and returns when no request is being
// served. Those that were not answered are for the process that takes over the mount.
func (s *server) handOver() error {
	s.leaving.Store(true)
	s.f.stop()
	if !s.enter() { // unmounted, or the loops have seen it already
		<-s.f.served
		return nil
	}
	defer s.leave()
	// A loop that waits for a request does so until it gets a signal, and sees then that
	// it should not have waited.
	if err := unix.SetNonblock(s.dev, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	tick := time.NewTicker(leaveEvery)
	defer tick.Stop()
	for {
		if err := nudge(); err != nil {
			return err
		}
		select {
		case <-s.f.served:
			return nil
		case <-tick.C:
		}
	}
}

// nudge interrupts what the threads of this process wait for in the kernel, with the
// signal that Go's scheduler does it with.
func nudge() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list threads: %w", err)
	}
	for _, t := range threads {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG) // it may have ended
		}
	}
	return nil
}

// resend has the kernel deliver again what another process took and did not answer.
func (s *server) resend() {
	p := make([]byte, headerSize)
	*(*fuse.OutHeader)(unsafe.Pointer(unsafe.SliceData(p))) = fuse.OutHeader{Length: uint32(headerSize), Status: noteResend}
	if _, err := unix.Write(s.dev, p); err != nil {
		s.warn("what was not answered is not delivered again", err)
	}
}

// errLeaving ends a loop.
var errLeaving = errors.New("another process is to serve the mount")

// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// DefaultPatience is what Options.Patience is if it is 0.
const DefaultPatience = 60 * time.Second

// expected are the layers that are to be attached again and cannot be yet. Those who use
// a mount that was taken over may ask for them.
type expected struct {
	some atomic.Bool // there have been any: the requests of other mounts pay nothing

	mu    sync.Mutex // guards what follows
	slots map[uint32]*arrival
	names map[string]*arrival
}

// arrival is one of them.
type arrival struct {
	slot uint32        // 0: not known
	over time.Time     // until when requests wait
	came chan struct{} // closed when the layer is attached, or nobody expects it any more

	waiting atomic.Int64 // requests
}

// Expect has requests for the layer name, in the slot unless that is 0, wait until it is
// attached: of a mount that was taken over. They wait for Options.Patience from now on at
// most, then they fail with EIO, and all do that come later, until it is there. A layer that
// is attached, or whose slot is in use, is not expected.
func (f *FS) Expect(name string, slot uint32) error {
	if f.origin != Resumed {
		return nil
	}
	if slot != 0 {
		if err := f.slots.claim(slot); err != nil {
			return fmt.Errorf("expect layer %s: %w", name, err)
		}
	}
	f.mu.Lock() // Attach comes wholly before or after
	defer f.mu.Unlock()
	if t := f.table.Load(); t.names[name] != nil || t.slots[slot] != nil {
		return nil
	}
	e := &f.expected
	e.mu.Lock()
	defer e.mu.Unlock()
	e.end(name)
	if e.names == nil {
		e.names, e.slots = make(map[string]*arrival), make(map[uint32]*arrival)
	}
	a := &arrival{slot: slot, over: time.Now().Add(f.opts.Patience), came: make(chan struct{})}
	e.names[name] = a
	if slot != 0 {
		e.slots[slot] = a
	}
	e.some.Store(true)
	return nil
}

// arrived lets requests for the layer name go on.
func (e *expected) arrived(name string) {
	if !e.some.Load() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.end(name)
}

// end ends the waiting for name. The caller holds e.mu.
func (e *expected) end(name string) {
	if a := e.names[name]; a != nil {
		delete(e.names, name)
		delete(e.slots, a.slot)
		close(a.came)
	}
}

// of returns what the request has to wait for, nil if that is nothing.
func (e *expected) of(p []byte) *arrival {
	h := (*fuse.InHeader)(unsafe.Pointer(unsafe.SliceData(p)))
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case h.Opcode == opForget || h.Opcode == opBatchForget || h.Opcode == opInterrupt:
		return nil
	case h.NodeId == fuse.FUSE_ROOT_ID && h.Opcode == opLookup:
		name, _, _ := bytes.Cut(p[unsafe.Sizeof(*h):], []byte{0})
		return e.names[string(name)]
	}
	return e.slots[uint32(h.NodeId>>32)]
}

// await has the request of n bytes in w wait for its layer, if that is expected. It
// reports whether the request is to be served; otherwise it is answered, or left to the
// process that takes over.
func (s *server) await(w *worker, n int) bool {
	e := &s.f.expected
	if !e.some.Load() {
		return true
	}
	a := e.of(w.in[:n])
	if a == nil {
		return true
	}
	if err := s.f.queue(&a.waiting); err != nil {
		s.f.stats.errors.Add(1)
		s.warn("request for a layer that is not back yet not served", err)
		if !s.leaving.Load() {
			s.send(w, w.status(fuse.EIO))
		}
		return false
	}
	defer s.f.unqueue(&a.waiting)
	ctx := s.reads.begin(&fuse.ReadIn{InHeader: *w.request()}, s.f.done)
	defer s.reads.end(ctx)
	defer ctx.end()
	late := time.NewTimer(time.Until(a.over))
	defer late.Stop()
	st := fuse.EIO
	select {
	case <-a.came:
		return true
	case <-ctx.Done():
		st = fuse.EINTR
		s.f.stats.interrupted.Add(1)
	case <-late.C:
		s.f.stats.errors.Add(1)
	}
	if !s.leaving.Load() {
		s.send(w, w.status(st))
	}
	return false
}

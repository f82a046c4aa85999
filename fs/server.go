// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The kernel's numbers of the requests that are told apart here, and of the
// notifications: that a name is gone, that an inode has changed, and that what was not
// answered is to be delivered again.
const (
	opLookup      = 1
	opForget      = 2
	opRead        = 15
	opInit        = 26
	opInterrupt   = 36
	opBatchForget = 42
	noteInode     = 2
	noteEntry     = 3
	noteResend    = 7
)

const (
	// maxLoops bounds the requests that are served at a time. With as many, a request is
	// served before the next is read. It keeps far from the kernel's limit of mappings.
	maxLoops = 4096
	// maxBadReads is how often a loop fails to read a request, with badReadWait between
	// the tries, until the mount is given up.
	maxBadReads = 100
	badReadWait = 10 * time.Millisecond
	// idleLoops is how many loops wait for requests. More than that end.
	idleLoops = 3
	// spliceMin is the least that is worth three system calls instead of two.
	spliceMin = 32 << 10
	// maxWrite is what the kernel wants the room for a request to be larger than. It is
	// the least there is, as nobody writes.
	maxWrite = 4096
)

// server takes requests from the kernel and gives it the replies.
//
// Each of its loops takes a request, serves it and takes the next one. A loop that has
// taken a request starts another if none is left that waits for the next: however many
// requests wait for the network, there is always one.
type server struct {
	f     *FS
	raw   *raw
	proto *fuse.ProtocolServer // serves what need not be fast

	loops   sync.WaitGroup
	idle    atomic.Int32 // loops that wait for a request
	count   atomic.Int32 // loops
	workers workers
	reads   reads
	trouble failures // of what concerns no layer

	// dev is /dev/fuse. The last of its users closes it: a notification may be stuck in
	// the kernel for longer than there are requests.
	dev   int
	users atomic.Int64
	ended atomic.Bool // there are no more requests
	// leaving says that another process will serve the mount: no more requests are taken,
	// and what can only be answered with an error is left to it.
	leaving atomic.Bool
	resumed bool // another process served the mount
}

// newServer returns the server of a mount that was just made with the descriptor dev,
// which it owns if there is no error. The kernel's first request is answered, and noted in rec.
func newServer(f *FS, dev int, rec *record) (*server, error) {
	s := makeServer(f, dev, f.mountOptions())
	if err := s.greet(rec); err != nil {
		s.workers.close()
		return nil, err
	}
	return s, nil
}

func makeServer(f *FS, dev int, opts *fuse.MountOptions) *server {
	r := &raw{RawFileSystem: fuse.NewDefaultRawFileSystem(), f: f}
	s := &server{f: f, raw: r, proto: fuse.NewProtocolServer(r, opts), dev: dev}
	s.reads.m = make(map[uint64]*readContext)
	s.users.Store(1)
	return s
}

// greet answers the kernel's first request, in which both say what they can.
func (s *server) greet(rec *record) error {
	w, err := s.workers.get()
	if err != nil {
		return err
	}
	defer s.workers.put(w)
	n, err := s.receive(w)
	if err != nil {
		return fmt.Errorf("read the first FUSE request: %w", err)
	}
	if op := w.request().Opcode; op != opInit {
		return fmt.Errorf("first FUSE request is %d", op)
	}
	rec.request = bytes.Clone(w.in[:n])
	p := s.handle(w, n)
	if len(p) < headerSize+int(unsafe.Sizeof(fuse.InitOut{})) {
		return fmt.Errorf("first FUSE request was not answered: reply %x", p)
	}
	(*fuse.InitOut)(unsafe.Pointer(unsafe.SliceData(w.payload()))).MaxWrite = maxWrite
	rec.reply = bytes.Clone(p)
	if _, err := unix.Write(s.dev, p); err != nil {
		return os.NewSyscallError("write", err)
	}
	return nil
}

// serve serves until the file system is unmounted.
func (s *server) serve() {
	if s.resumed && !s.leaving.Load() {
		s.resend()
	}
	s.start()
	s.loops.Wait()
	s.f.stop()
	s.workers.close()
	s.ended.Store(true)
	s.leave()
}

// enter keeps dev open until leave; it reports false if it is closed already.
func (s *server) enter() bool {
	for {
		n := s.users.Load()
		if n == 0 || s.ended.Load() {
			return false
		}
		if s.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (s *server) leave() {
	if s.users.Add(-1) == 0 {
		_ = unix.Close(s.dev)
	}
}

// start starts a loop.
func (s *server) start() {
	s.idle.Add(1)
	s.count.Add(1)
	s.loops.Go(func() {
		defer s.count.Add(-1)
		w, err := s.workers.get()
		if err != nil {
			s.idle.Add(-1)
			s.warn("no memory for one more FUSE request", err)
			return
		}
		s.loop(w)
		s.workers.put(w)
	})
}

// loop serves requests, until enough other loops do.
func (s *server) loop(w *worker) {
	for bad := 0; ; {
		n, err := s.receive(w)
		left := s.idle.Add(-1)
		if err == errLeaving {
			return
		}
		if err != nil {
			bad++
			if err != unix.ENODEV { // unmounted, or the connection was aborted
				s.warn("cannot read FUSE requests", err)
			}
			if err == unix.ENODEV || bad == maxBadReads {
				s.f.stop()
				return
			}
			time.Sleep(badReadWait)
			s.idle.Add(1)
			continue
		}
		bad = 0
		// These want no reply, and would come faster than loops can be started.
		if op := w.request().Opcode; left == 0 && op != opForget && op != opBatchForget && s.count.Load() < maxLoops {
			s.start()
		}
		s.serveOne(w, n)
		if w.broken {
			if s.idle.Load() == 0 {
				s.start()
			}
			return
		}
		if s.idle.Add(1) > idleLoops {
			s.idle.Add(-1)
			return
		}
	}
}

// warn logs an error that concerns no layer, once a second.
func (s *server) warn(msg string, err error) {
	if held, ok := s.trouble.log(time.Now()); ok {
		s.f.opts.Log.Error(msg, "error", err, "held_back", held)
	}
}

// receive takes the next request into w.in, and returns its length.
func (s *server) receive(w *worker) (int, error) {
	for {
		if s.leaving.Load() {
			return 0, errLeaving
		}
		n, err := unix.Read(s.dev, w.in)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN || err == unix.ENOENT: // the last: it was interrupted on the way
		case err != nil:
			return 0, err
		case n < int(unsafe.Sizeof(fuse.InHeader{})):
			return 0, fmt.Errorf("FUSE request of %d bytes", n)
		default:
			return n, nil
		}
	}
}

// serveOne serves the request of n bytes in w.
func (s *server) serveOne(w *worker, n int) {
	defer func() {
		if v := recover(); v != nil {
			w.broken = true
			s.send(w, w.status(s.f.panicked(v))) // a second reply finds no request
		}
	}()
	op := w.request().Opcode
	if note := s.f.opts.OnRequest; note != nil && op != opForget && op != opBatchForget && w.request().NodeId != fuse.FUSE_ROOT_ID {
		note()
	}
	if !s.await(w, n) {
		return
	}
	interrupts := op == opInterrupt && n >= int(unsafe.Sizeof(fuse.InterruptIn{}))
	switch {
	case interrupts && s.interrupt(w): // what waits for its layer does so here, with Debug, too
	case s.f.opts.Debug: // go-fuse logs what passes through it
		s.send(w, s.handle(w, n))
	case op == opRead && n >= int(unsafe.Sizeof(fuse.ReadIn{})):
		s.read(w)
	case interrupts:
		s.send(w, w.status(fuse.EAGAIN)) // it is done, or about to begin: the kernel knows, and asks again
	default:
		s.send(w, s.handle(w, n))
	}
}

// handle has go-fuse serve the request of n bytes in w, and returns the reply, if there is to be one.
func (s *server) handle(w *worker, n int) []byte {
	w.inVec[0], w.outVec[0] = w.in[:n], w.out
	n, st := s.proto.HandleRequest(w.inVec[:], w.outVec[:])
	if n == 0 && !st.Ok() {
		return w.status(st)
	}
	return w.out[:n]
}

// send sends a reply that w has made, unless it is empty.
func (s *server) send(w *worker, p []byte) {
	if len(p) == 0 {
		return
	}
	if h := (*fuse.OutHeader)(unsafe.Pointer(unsafe.SliceData(p))); h.Status != 0 && w.request().Opcode == opRead && s.leaving.Load() {
		return
	}
	if _, err := unix.Write(s.dev, p); failed(err) {
		s.warn("FUSE reply not accepted", err)
		_, _ = unix.Write(s.dev, w.status(fuse.EIO)) // without a reply it would be waited for
	}
}

// failed reports whether a reply was not accepted. That its request is no more is no failure.
func failed(err error) bool {
	return err != nil && err != unix.ENOENT && err != unix.ENODEV
}

// interrupt passes on to a request that the kernel wants it to end. It reports whether that is
// under way.
func (s *server) interrupt(w *worker) bool {
	return s.reads.interrupt((*fuse.InterruptIn)(unsafe.Pointer(unsafe.SliceData(w.in))).Unique)
}

// read serves a READ.
func (s *server) read(w *worker) {
	in := (*fuse.ReadIn)(unsafe.Pointer(unsafe.SliceData(w.in)))
	st := fuse.OK
	defer func() {
		if !st.Ok() {
			s.send(w, w.status(st))
		}
	}()
	x, n, st := s.raw.readable(in, len(w.payload()))
	if !st.Ok() {
		return
	}
	if n > 0 {
		ctx := s.reads.begin(in, s.f.done)
		defer s.reads.end(ctx)
		defer ctx.end()
		if st = s.f.admit(ctx, x); !st.Ok() {
			return
		}
		if n >= spliceMin && s.splice(w, x, in, n) {
			return
		}
		st = s.raw.readAt(ctx, x, in, w.payload()[:n])
	}
	if st.Ok() {
		s.send(w, w.reply(n))
	}
}

// splice has the kernel move the n bytes to be read from the layer's file to the reader, if they are there.
func (s *server) splice(w *worker, x ref, in *fuse.ReadIn, n int) bool {
	begin := x.node().data
	e, ok := x.l.data.Extent(begin+int64(in.Offset), int64(n), begin+x.node().size)
	if !ok {
		return false
	}
	defer e.Release()
	if w.pipe.load(w.reply(n)[:headerSize], e.Fd, e.Off, n) != nil {
		return false // reading without the pipe says what it is, if it is the file
	}
	if err := w.pipe.send(s.dev, headerSize+n); failed(err) {
		return false // the kernel may still wait for the reply
	}
	s.f.stats.reads.Add(1)
	s.f.stats.spliced.Add(1)
	s.f.stats.bytes.Add(int64(n))
	return true
}

// entryGone has the kernel forget a name in the directory parent, and waits until it
// has. The kernel may well not know it.
func (s *server) entryGone(parent uint64, name string) {
	note := struct {
		fuse.OutHeader
		fuse.NotifyInvalEntryOut
	}{fuse.OutHeader{Status: noteEntry}, fuse.NotifyInvalEntryOut{Parent: parent, NameLen: uint32(len(name))}}
	size := int(unsafe.Sizeof(note))
	note.Length = uint32(size + len(name) + 1)
	p := make([]byte, 0, note.Length)
	p = append(p, unsafe.Slice((*byte)(unsafe.Pointer(&note)), size)...)
	p = append(append(p, name...), 0)
	if s.enter() {
		defer s.leave()
		_, _ = unix.Write(s.dev, p)
	}
}

// known reports whether the kernel knows the node id. It asks for its attributes anew
// when it needs them next.
func (s *server) known(id uint64) bool {
	note := struct {
		fuse.OutHeader
		fuse.NotifyInvalInodeOut
	}{fuse.OutHeader{Status: noteInode}, fuse.NotifyInvalInodeOut{Ino: id, Off: -1}}
	note.OutHeader.Length = uint32(unsafe.Sizeof(note))
	if !s.enter() {
		return true
	}
	defer s.leave()
	_, err := unix.Write(s.dev, unsafe.Slice((*byte)(unsafe.Pointer(&note)), unsafe.Sizeof(note)))
	return err != unix.ENOENT
}

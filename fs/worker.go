// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"os"
	"sync"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The memory of a worker, in this order.
const (
	requestSize = 16 << 10 // the kernel wants to be able to write 8 KiB at least
	headerSize  = int(unsafe.Sizeof(fuse.OutHeader{}))
	replySize   = maxRead
)

// keptWorkers is how many workers without work are kept.
const keptWorkers = 16

// worker is what it takes to serve one request at a time: room for the request and
// the reply, and a pipe for replies that are spliced. It belongs to one goroutine.
//
// The memory is not Go's. The room for the request is locked: when a thread is killed
// as the kernel hands it a request, and the page to write that to is not resident, the
// request ends with EIO instead of waiting for the next process. The room for the
// reply takes no memory before it is written to: a read that waits costs little.
type worker struct {
	mem  []byte
	in   []byte // request
	out  []byte // reply: the header, and page aligned behind it the payload
	pipe pipe
	// broken says that a request panicked: who knows what still writes to out.
	broken bool

	inVec, outVec [1][]byte // of in and out, for go-fuse
}

func newWorker() (*worker, error) {
	page := os.Getpagesize()
	mem, err := unix.Mmap(-1, 0, requestSize+page+replySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	w := &worker{mem: mem, in: mem[:requestSize:requestSize], out: mem[requestSize+page-headerSize:]}
	// Where these are not allowed or not known, all works as long as nobody kills us.
	_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE)
	_ = unix.Mlock(w.in)
	clear(w.in)
	return w, nil
}

// request returns the header of the request.
func (w *worker) request() *fuse.InHeader {
	return (*fuse.InHeader)(unsafe.Pointer(unsafe.SliceData(w.in)))
}

// payload is where the payload of the reply goes.
func (w *worker) payload() []byte { return w.out[headerSize:] }

// reply makes a reply with the header for a payload of n bytes, and returns it.
func (w *worker) reply(n int) []byte {
	h := (*fuse.OutHeader)(unsafe.Pointer(unsafe.SliceData(w.out)))
	*h = fuse.OutHeader{Length: uint32(headerSize + n), Unique: w.request().Unique}
	return w.out[:headerSize+n]
}

// status makes a reply that has only a status, and returns it.
func (w *worker) status(st fuse.Status) []byte {
	p := w.reply(0)
	(*fuse.OutHeader)(unsafe.Pointer(unsafe.SliceData(w.out))).Status = -int32(st)
	return p
}

func (w *worker) close() {
	w.pipe.close()
	_ = unix.Munmap(w.mem) // cannot fail
}

// workers are those that have no work.
type workers struct {
	mu   sync.Mutex
	free []*worker
}

// get returns a worker.
func (p *workers) get() (*worker, error) {
	p.mu.Lock()
	if n := len(p.free); n > 0 {
		defer p.mu.Unlock()
		w := p.free[n-1]
		p.free = p.free[:n-1]
		return w, nil
	}
	p.mu.Unlock()
	return newWorker()
}

// put gives a worker back. The memory of a broken one is never used again.
func (p *workers) put(w *worker) {
	if w.broken {
		return
	}
	p.mu.Lock()
	if len(p.free) < keptWorkers {
		defer p.mu.Unlock()
		p.free = append(p.free, w)
		return
	}
	p.mu.Unlock()
	w.close()
}

// close frees the workers without work.
func (p *workers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.free {
		w.close()
	}
	p.free = nil
}

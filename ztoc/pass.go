// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
)

const (
	pieceSize  = 256 << 10 // of uncompressed bytes: twice as much took 4 % more time, in new memory
	pieceSlack = 512       // room behind: the inflater is at full speed with some 300 bytes of it
	pieces     = 24        // of a pass: one being inflated, one walked, some in between; with 12 a stage waited now and then
	maxBlocks  = 4096      // of a piece
	maxRefs    = 16 << 10
	maxChunks  = 2 // that a piece ends, so that one without output does not hold all there are
)

// pass is one reading of a layer, as stages that run at the same time:
//
//	read -> unpack -> walk -> digest
//
// read is the caller's goroutine. Chunks of compressed bytes and pieces of
// uncompressed ones are made once and go round; each belongs to one stage at a
// time. What ends the layer, its end or a fault, travels with the last bytes before
// it, so that of several faults the first in the layer is reported, whichever stage
// was quicker.
type pass struct {
	opts   passOptions
	chunks chan *chunk
	works  chan *work
	sums   chan batch

	memory     memory
	freeChunks free[chunk]
	freeWorks  free[work]

	off int64 // compressed bytes read; of the caller's goroutine
}

// passOptions says what a pass is to find out beside checkpoints and entries.
type passOptions struct {
	spanSize    int64       // of 0.9; 0: one span per block
	compression Compression // 0: detect
	compactSize int64       // compact span size; 0: no compact spans
	digests     bool        // of the layer and of its uncompressed bytes
	entry       func(e *Entry) error
	window      func(p []byte) error // of the next span of 0.9; nil: all zeros
	planner     spanPlanner
}

// spanPlanner chooses the checkpoints of compact spans, see piece.go.
type spanPlanner interface {
	add(p *piece) (cuts []cut, settled int64, err error)
	finish(out int64) (cuts []cut, err error)
}

// work is a piece on its way from unpack to walk.
type work struct {
	piece
	buf         []byte      // for windowSize bytes of history, the data and slack; nil until it is needed
	headers     []byte      // what the headers of blocks are slices of
	chunks      []*chunk    // that unpack has finished with
	compression Compression // of the layer
	size        int64       // compressed size of the layer, with io.EOF
	err         error       // what follows the piece; nil: another one
}

// result is what a pass finds out beside what it hands to the functions of its options.
type result struct {
	zinfo   *ZInfo // windows are not in it
	out     int64  // size of all uncompressed bytes, those behind the tar included
	layer   [32]byte
	diffID  [32]byte
	compact [][32]byte // digests of the compact spans
}

// run reads the layer from r. An error that is a *readError is not the layer's.
func (o passOptions) run(parent context.Context, r io.Reader) (*result, error) {
	ctx, cancel := context.WithCancel(parent)
	p := newPass(o)
	defer p.memory.free() // the stages have ended, whatever happens
	var (
		stages stages
		w      = &walker{p: p}
		d      = newDigester(p)
		err    error

		digested bool // all there is
	)
	stages.start(cancel, func() { newUnpacker(ctx, p).run() })
	stages.start(cancel, func() {
		if err = w.run(ctx); err != nil {
			cancel()
		}
	})
	stages.start(cancel, func() { digested = d.run(ctx) })
	func() {
		defer stages.wait()
		defer func() {
			if e := recover(); e != nil { // of the caller's reader
				cancel()
				panic(e)
			}
		}()
		p.read(ctx, r)
	}()
	cancel()
	// The end of parent may come when only digests are missing.
	if e := parent.Err(); e != nil && (err != nil || !digested) {
		return nil, &readError{p.off, e}
	}
	if err != nil {
		return nil, err
	}
	return w.result(d), nil
}

// newPass returns a pass whose memory is to be freed when its stages have ended.
func newPass(o passOptions) *pass {
	return &pass{
		opts: o, memory: newMemory(),
		chunks: make(chan *chunk, chunks), freeChunks: newFree[chunk](chunks),
		works: make(chan *work, pieces), freeWorks: newFree[work](pieces),
		sums: make(chan batch, pieces),
	}
}

// stages are goroutines that end together.
type stages struct {
	wg     sync.WaitGroup
	mu     sync.Mutex // guards panics
	panics any        // the first
}

// start runs f. Should it panic it cancels the others, and wait panics.
func (s *stages) start(cancel context.CancelFunc, f func()) {
	s.wg.Go(func() {
		defer func() {
			if e := recover(); e != nil {
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.panics == nil {
					s.panics = fmt.Sprintf("%v\n\n%s", e, debug.Stack())
				}
				cancel()
			}
		}()
		f()
	})
}

// wait returns when all have ended.
func (s *stages) wait() {
	s.wg.Wait()
	if p := s.panicked(); p != nil {
		panic(p)
	}
}

// panicked returns what the first stage that did panicked with, or nil.
func (s *stages) panicked() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.panics
}

// free is a list of idle things. One goroutine gets, any put.
type free[T any] struct {
	idle chan *T
	left int // that may yet be made
}

func newFree[T any](n int) free[T] { return free[T]{idle: make(chan *T, n), left: n} }

// get returns an idle thing, or a new one.
func (f *free[T]) get(ctx context.Context) (*T, bool) {
	select {
	case v := <-f.idle:
		return v, true
	default:
	}
	if f.left > 0 {
		f.left--
		return new(T), true
	}
	return receive(ctx, f.idle)
}

// put does not block.
func (f *free[T]) put(v *T) { f.idle <- v }

// receive takes from c until ctx ends.
func receive[T any](ctx context.Context, c <-chan T) (v T, ok bool) {
	select {
	case v = <-c:
		return v, true
	case <-ctx.Done():
		return v, false
	}
}

// send puts v into c until ctx ends.
func send[T any](ctx context.Context, c chan<- T, v T) bool {
	select {
	case c <- v:
		return true
	case <-ctx.Done():
		return false
	}
}

// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"io"
)

// What an aheadReader holds: more does not make unpacking faster.
const (
	aheadBlock  = 256 << 10
	aheadBlocks = 4
)

// aheadReader reads on while its reader is busy with what it has got, so that a
// layer is inflated on one core while its files are made on another.
type aheadReader struct {
	full  chan block    // what was read; closed at its end
	empty chan []byte   // to be read into
	quit  chan struct{} // closed by stop
	cur   block
	buf   []byte // of cur
}

// block is a piece of what was read, and the error behind it.
type block struct {
	p   []byte
	err error
}

// startReader begins to read r. The reader is to be stopped.
func startReader(r io.Reader) *aheadReader {
	a := &aheadReader{full: make(chan block, aheadBlocks), empty: make(chan []byte, aheadBlocks), quit: make(chan struct{})}
	for range aheadBlocks {
		a.empty <- nil
	}
	go a.run(r)
	return a
}

// run reads until an error or stop.
func (a *aheadReader) run(r io.Reader) {
	defer close(a.full)
	for {
		var p []byte
		select {
		case p = <-a.empty:
		case <-a.quit:
			return
		}
		if p == nil {
			p = make([]byte, aheadBlock)
		}
		n := 0
		var err error
		for n < len(p) && err == nil {
			var m int
			m, err = r.Read(p[n:])
			n += m
		}
		select {
		case a.full <- block{p[:n], err}:
		case <-a.quit:
			return
		}
		if err != nil {
			return
		}
	}
}

// Read takes what was read.
func (a *aheadReader) Read(p []byte) (int, error) {
	for len(a.cur.p) == 0 {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		if a.buf != nil {
			a.empty <- a.buf // there is room for all that are made
			a.buf = nil
		}
		a.cur = <-a.full
		a.buf = a.cur.p[:cap(a.cur.p)]
	}
	n := copy(p, a.cur.p)
	a.cur.p = a.cur.p[n:]
	return n, nil
}

// stop ends the reading, for which cancel is called, and waits for it.
func (a *aheadReader) stop(cancel context.CancelFunc) {
	cancel()
	close(a.quit)
	for range a.full {
	}
}

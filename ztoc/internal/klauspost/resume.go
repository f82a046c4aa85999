// SPDX-License-Identifier: Apache-2.0

package klauspost

import (
	"bufio"
	"io"

	"github.com/klauspost/compress/flate"
)

// resumeBuffer is the size of a Resumer's input buffer. klauspost has a fast path
// for bufio readers; the copy into the buffer is small against the inflating.
const resumeBuffer = 16 << 10

// Resumer inflates pieces of streams, one after another, without allocating once
// it is warm.
type Resumer struct {
	Scratch [1]byte // for the caller's use: it saves an allocation

	src piece
	buf *bufio.Reader // over src
	r   resetter
}

// resetter is the part of klauspost's reader that Resumer needs.
type resetter interface {
	io.Reader
	flate.Resetter
	ResetCP(r io.Reader, cp flate.InflateCheckpoint) error
}

// NewResumer returns a Resumer without input: call Resume first.
func NewResumer() *Resumer {
	z := new(Resumer)
	z.buf = bufio.NewReaderSize(&z.src, resumeBuffer)
	z.r = flate.NewReaderOpts(z.buf).(resetter) // klauspost documents its readers as resettable
	return z
}

// Resume makes src the input, without the skip low-order bits of its first byte
// and the cut high-order bits of its last one (each 0-7), with window as the
// history; an empty window allows no reference behind the start.
func (z *Resumer) Resume(src []byte, skip, cut uint8, window []byte) error {
	z.src.reset(src, cut)
	z.buf.Reset(&z.src)
	return z.r.ResetCP(z.buf, flate.InflateCheckpoint{BitOffset: skip, Window: window})
}

// Restart begins a new stream at the next byte of the input.
func (z *Resumer) Restart() error { return z.r.Reset(z.buf, nil) }

// Read inflates into p. It returns io.EOF behind a final block, and
// io.ErrUnexpectedEOF where the input ends before, between blocks too.
func (z *Resumer) Read(p []byte) (int, error) { return z.r.Read(p) }

// ReadByte returns the next byte of the input, behind a stream's end.
func (z *Resumer) ReadByte() (byte, error) { return z.buf.ReadByte() }

// Release drops the reference to the input.
func (z *Resumer) Release() { z.src.reset(nil, 0) }

// piece reads a slice of a stream, followed by lookahead zero bytes.
type piece struct {
	body []byte // all but the last byte
	tail [1 + lookahead]byte
	rest []byte // of tail
}

// lookahead is the number of bytes that hold the 10 bits klauspost wants to see
// behind a block.
const lookahead = 2

// reset makes p read src, of whose last byte the cut high-order bits are cleared.
func (p *piece) reset(src []byte, cut uint8) {
	p.body, p.rest = nil, nil
	if len(src) == 0 {
		return
	}
	last := len(src) - 1
	p.body = src[:last]
	p.tail = [1 + lookahead]byte{src[last] & (0xff >> cut)}
	p.rest = p.tail[:]
}

// Read copies the next bytes to b.
func (p *piece) Read(b []byte) (int, error) {
	if len(p.body) == 0 && len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.body)
	p.body = p.body[n:]
	if len(p.body) == 0 {
		k := copy(b[n:], p.rest)
		p.rest = p.rest[k:]
		n += k
	}
	return n, nil
}

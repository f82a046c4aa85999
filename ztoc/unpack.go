// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

// errTrailing says that what follows the last gzip member is not one.
var errTrailing = errors.New("trailing data is not a gzip member")

// unpacker is the second stage: it makes pieces of uncompressed bytes.
type unpacker struct {
	ctx context.Context //nolint:containedctx // of the one run
	p   *pass
	in  input
	w   *work // being filled
	c   Compression

	// Of a gzip layer:
	dec     inflate.Decoder
	pos     int  // in w.buf: what comes before is inflated
	lo      int  // in w.buf: where history ends that matches may refer to
	members int  // begun so far
	begun   bool // a block whose header has not been read yet
	block   blockStart
	trace   tracer
}

func newUnpacker(ctx context.Context, p *pass) *unpacker {
	u := &unpacker{ctx: ctx, p: p}
	u.in = input{p: p, ctx: ctx, done: u.endChunk}
	u.trace = newTracer(p.opts.compactSize)
	return u
}

// run hands on all pieces of the layer, the last of them with the error that ends it.
func (u *unpacker) run() {
	var ok bool
	if u.w, ok = u.next(); !ok {
		return
	}
	err := u.layer()
	if u.ctx.Err() != nil {
		return // the piece may be incomplete; nobody waits for it
	}
	if u.in.cur != nil {
		u.w.chunks = append(u.w.chunks, u.in.cur)
	}
	if err == io.EOF {
		u.w.size = u.in.pos()
	}
	u.w.err = err
	u.send()
}

// layer unpacks the layer to the error that ends it, io.EOF if it is sound.
func (u *unpacker) layer() error {
	err := u.in.more()
	if err == nil {
		u.c, err = detect(u.in.src, u.in.cur.err, u.p.opts.compression)
	}
	if err != nil {
		return err
	}
	u.w.compression = u.c
	switch {
	case u.c == Gzip:
		return u.gzip()
	case u.p.opts.spanSize == 0:
		return fmt.Errorf("a span per deflate block of an uncompressed layer: %w", ErrUnsupported)
	}
	return u.plain()
}

// detect returns want, or what the first bytes of a layer are if want is 0. end is what follows them.
func detect(head []byte, end error, want Compression) (Compression, error) {
	switch {
	case len(head) == 0 && end != io.EOF:
		return 0, end
	case len(head) == 0:
		return 0, &FormatError{Field: "layer", Off: 0, Err: io.ErrUnexpectedEOF}
	case want == Gzip, want == Uncompressed:
		return want, nil
	case want != 0:
		return 0, fmt.Errorf("compression %d: %w", want, ErrUnsupported)
	case len(head) >= 2 && head[0] == gzipID1 && head[1] == gzipID2:
		return Gzip, nil
	case len(head) >= 4 && string(head[:4]) == "\x28\xb5\x2f\xfd":
		return 0, fmt.Errorf("zstd layer: %w", ErrUnsupported)
	}
	return Uncompressed, nil
}

// plain hands the chunks of an uncompressed layer on as they are.
func (u *unpacker) plain() error {
	for {
		u.w.data, u.w.off = u.in.src[u.in.in:], u.in.pos()
		u.in.in = len(u.in.src)
		u.w.bit = u.in.pos() * 8
		if err := u.in.more(); err != nil {
			return err
		}
		if !u.send() {
			return u.ctx.Err()
		}
	}
}

// endChunk notes that c is not needed any more, and hands the piece on where it
// would hold too many chunks.
func (u *unpacker) endChunk(c *chunk) {
	u.w.chunks = append(u.w.chunks, c)
	if u.c == Gzip && len(u.w.chunks) >= maxChunks {
		u.flush() //nolint:errcheck // it is the end of ctx, which the next chunk sees too
	}
}

// next returns an idle piece, emptied.
func (u *unpacker) next() (*work, bool) {
	w, ok := u.p.freeWorks.get(u.ctx)
	if ok {
		*w = work{
			buf: w.buf, headers: w.headers[:0], chunks: w.chunks[:0], compression: u.c,
			piece: piece{blocks: w.blocks[:0], refs: refs{w.refs.list[:0], w.refs.runs[:0]}, ends: w.ends[:0]},
		}
	}
	return w, ok
}

// send hands the piece on and begins the next one, without data.
func (u *unpacker) send() bool {
	w := u.w
	if w.err != nil {
		u.w = nil
		return send(u.ctx, u.p.works, w)
	}
	next, ok := u.next()
	if !ok {
		return false
	}
	u.w = next
	return send(u.ctx, u.p.works, w)
}

// out is the uncompressed offset of what is inflated next.
func (u *unpacker) out() int64 { return u.w.off + int64(u.pos-windowSize) }

// bit is the compressed position, in bits.
func (u *unpacker) bit() int64 { return u.in.pos()*8 - int64(u.dec.Bits()) }

// finish completes the piece of a gzip layer.
func (u *unpacker) finish() {
	hist := int(min(windowSize, u.w.off))
	u.w.hist, u.w.data = u.w.buf[windowSize-hist:windowSize], u.w.buf[windowSize:u.pos]
	u.w.bit = u.bit()
}

// flush hands the piece on and makes its end the history of the next one.
func (u *unpacker) flush() error {
	u.finish()
	w, off := u.w, u.out()
	next, ok := u.next()
	if !ok {
		return u.ctx.Err()
	}
	if next.buf == nil {
		next.buf = u.p.memory.piece()
	}
	n := int(min(windowSize, off))
	copy(next.buf[windowSize-n:windowSize], w.buf[u.pos-n:u.pos])
	next.off = off
	u.lo = windowSize - min(windowSize, u.pos-u.lo)
	u.pos = windowSize
	u.w = next
	if !send(u.ctx, u.p.works, w) {
		return u.ctx.Err()
	}
	u.arm()
	return nil
}

// full reports whether the piece is to be handed on.
func (u *unpacker) full() bool {
	return u.pos >= windowSize+pieceSize || len(u.w.blocks) >= maxBlocks || len(u.w.refs.list) >= maxRefs
}

// gzip unpacks the members of a gzip layer.
func (u *unpacker) gzip() error {
	u.w.buf = u.p.memory.piece()
	u.pos, u.lo = windowSize, windowSize
	for {
		if err := u.member(); err != nil {
			if u.ctx.Err() == nil {
				u.finish() // what there is comes before the error
			}
			return err
		}
	}
}

// member inflates one gzip member. io.EOF says that there is no more.
func (u *unpacker) member() error {
	if err := u.header(); err != nil {
		return err
	}
	u.members++
	u.dec.Reset(0)
	u.lo = u.pos
	u.arm()
	u.beginBlock(true)
	if err := u.stream(); err != nil {
		return err
	}
	off := u.in.pos()
	var t [gzipTrailer]byte
	for i := range t {
		var err error
		if t[i], err = u.in.ReadByte(); err != nil {
			return u.fault("gzip trailer", off, err)
		}
	}
	u.w.ends = append(u.w.ends, memberEnd{
		out: u.out(), off: off, crc: binary.LittleEndian.Uint32(t[:]), size: binary.LittleEndian.Uint32(t[4:]),
	})
	return nil
}

// header reads the header of the next member.
func (u *unpacker) header() error {
	off := u.in.pos()
	err := readGzipHeader(&u.in)
	switch {
	case err == nil:
		return nil
	case u.members > 0 && err == io.ErrUnexpectedEOF && u.in.pos() == off:
		return io.EOF
	case u.members > 0 && errors.Is(err, errGzipMagic):
		return &FormatError{Field: "gzip layer", Off: off, Err: errTrailing}
	}
	return u.fault("gzip header", off, err)
}

// fault returns the error of a field at off: err as it is if it is not the layer's.
func (u *unpacker) fault(field string, off int64, err error) error {
	if re := (*readError)(nil); u.ctx.Err() != nil || errors.As(err, &re) {
		return err
	}
	return &FormatError{Field: field, Off: off, Err: noEOF(err)}
}

// stream inflates one deflate stream.
func (u *unpacker) stream() error {
	for {
		if u.full() {
			if err := u.flush(); err != nil {
				return err
			}
		}
		want := u.trace.stop(u)
		pos, in, stop, err := u.dec.Decode(u.w.buf[u.lo:], u.pos-u.lo, want-u.lo, u.in.src, u.in.in, u.in.last())
		u.pos, u.in.in = pos+u.lo, in
		u.trace.collect(u)
		if u.begun && u.bit() != u.block.bit {
			u.addBlock()
		}
		if err == io.ErrUnexpectedEOF {
			u.in.in = len(u.in.src)
		}
		if err != nil {
			return &FormatError{Field: "deflate stream", Off: u.in.pos(), Err: err}
		}
		switch stop {
		case inflate.NeedInput:
			if err := u.in.more(); err != nil {
				return err
			}
		case inflate.BlockEnd:
			u.beginBlock(false)
		case inflate.StreamEnd:
			return nil
		}
	}
}

// beginBlock notes that a block begins here.
func (u *unpacker) beginBlock(member bool) {
	u.begun = true
	u.block = blockStart{out: u.out(), bit: u.bit(), member: member}
}

// addBlock adds the block that has begun to the piece, now that its header has been read.
func (u *unpacker) addBlock() {
	u.begun = false
	if u.trace.size > 0 {
		p, bits := u.dec.Header()
		n := len(u.w.headers)
		u.w.headers = append(u.w.headers, p...)
		u.block.header, u.block.headerBits = u.w.headers[n:len(u.w.headers):len(u.w.headers)], bits
	}
	u.w.blocks = append(u.w.blocks, u.block)
}

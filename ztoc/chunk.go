// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/seekoci/seekoci/ztoc/internal/klauspost"
)

// The faults at the end of a gzip member.
var (
	errTrailing = errors.New("trailing data is not a gzip member")
	errCRC      = errors.New("checksum of the data mismatch")
	errISize    = errors.New("length of the data mismatch")
)

// gzipChunker inflates a gzip layer, member by member, and takes its checkpoints.
type gzipChunker struct {
	src      *source
	spanSize int64
	out      []byte
	err      error // of a block end; Read cannot return it

	last int64 // uncompressed offset of the last checkpoint

	scan    *klauspost.Scanner // of the current member; nil between members
	members int
	outBase int64  // uncompressed offset of the member
	crc     uint32 // of the member's data read so far
	size    int64  // likewise
	history []byte // the up to WindowSize bytes before the member
}

func newGzipChunker(src *source, spanSize int64) *gzipChunker {
	src.spans.max = maxGzipSpans
	return &gzipChunker{src: src, spanSize: spanSize, out: make([]byte, klauspost.WindowSize)}
}

// next returns the next inflated bytes of the layer.
func (g *gzipChunker) next() ([]byte, error) {
	for {
		if err := g.src.ctx.Err(); err != nil {
			g.src.err = err
			return nil, err
		}
		if g.scan == nil {
			if err := g.openMember(); err != nil {
				return nil, err
			}
		}
		n, err := g.scan.Read(g.out)
		if g.err != nil {
			return nil, g.err
		}
		g.crc = crc32.Update(g.crc, crc32.IEEETable, g.out[:n])
		g.size += int64(n)
		if err == io.EOF {
			err = g.closeMember()
		} else if err != nil {
			err = &FormatError{Field: "deflate stream", Off: g.src.pos(), Err: err}
		}
		if err != nil {
			return nil, err
		}
		if n > 0 {
			return g.out[:n], nil
		}
	}
}

// openMember reads the next member's header; io.EOF says that there is no more.
func (g *gzipChunker) openMember() error {
	start := g.src.pos()
	if _, err := g.src.buf.Peek(1); err == io.EOF && g.members > 0 {
		return io.EOF
	}
	if err := readGzipHeader(g.src.buf); err != nil {
		if g.members > 0 && errors.Is(err, errGzipMagic) {
			return &FormatError{Field: "gzip layer", Off: start, Err: errTrailing}
		}
		return &FormatError{Field: "gzip header", Off: start, Err: err}
	}
	g.members++
	g.crc, g.size = 0, 0
	g.scan = klauspost.NewScanner(g.src.buf, g.src.pos, g.blockEnd)
	return g.candidate(g.src.pos()*8, g.outBase, nil)
}

// closeMember checks the trailer of the member that has just ended.
func (g *gzipChunker) closeMember() error {
	g.scan = nil
	off := g.src.pos()
	var t [gzipTrailer]byte
	if _, err := io.ReadFull(g.src.buf, t[:]); err != nil {
		return &FormatError{Field: "gzip trailer", Off: off, Err: noEOF(err)}
	}
	if crc := binary.LittleEndian.Uint32(t[:]); crc != g.crc {
		return &FormatError{Field: "gzip trailer", Off: off, Err: fmt.Errorf("%w: stored %08x, computed %08x", errCRC, crc, g.crc)}
	}
	if n := binary.LittleEndian.Uint32(t[4:]); n != uint32(g.size) {
		return &FormatError{Field: "gzip trailer", Off: off + 4, Err: fmt.Errorf("%w: stored %d, inflated %d", errISize, n, uint32(g.size))}
	}
	return nil
}

// blockEnd considers the end of a block of the current member as a checkpoint.
func (g *gzipChunker) blockEnd(b klauspost.BlockEnd) {
	if g.err != nil {
		return
	}
	if b.Final {
		g.outBase += b.Out
		g.history = lastWindow(g.history, b.Window)
		return
	}
	g.err = g.candidate(b.Bit, g.outBase+b.Out, b.Window)
}

// candidate takes a checkpoint where the incumbent does: at uncompressed offset 0,
// and where more than the span size has been inflated since the last one. bit is
// the compressed position in bits, window what the member has of the history.
func (g *gzipChunker) candidate(bit, out int64, window []byte) error {
	if out != 0 && out-g.last <= g.spanSize {
		return nil
	}
	g.last = out
	s := Span{In: Range{Off: bit / 8}, Out: Range{Off: out}}
	end := s.In.Off
	if bit%8 != 0 {
		s.Bits = uint8(8 - bit%8)
		end++
	}
	if out > 0 {
		s.Window = make([]byte, klauspost.WindowSize)
		n := copy(s.Window[klauspost.WindowSize-len(window):], window)
		rest := s.Window[:klauspost.WindowSize-n]
		h := g.history[max(0, len(g.history)-len(rest)):]
		copy(rest[len(rest)-len(h):], h)
	}
	return g.src.spans.begin(s, end)
}

// lastWindow returns the last WindowSize bytes of history followed by more, in
// history's memory.
func lastWindow(history, more []byte) []byte {
	if keep := max(0, klauspost.WindowSize-len(more)); len(history) > keep {
		history = append(history[:0], history[len(history)-keep:]...)
	}
	return append(history, more...)
}

// plainChunker passes an uncompressed layer through and cuts it at multiples of
// the span size.
type plainChunker struct {
	src      *source
	spanSize int64
	taken    int // of the buffer's bytes, by the piece handed out
}

func newPlainChunker(src *source, spanSize int64) *plainChunker {
	src.spans.max = maxPlainSpans
	return &plainChunker{src: src, spanSize: spanSize}
}

// next returns the next buffered bytes of the layer, at most to the span's end.
func (p *plainChunker) next() ([]byte, error) {
	if _, err := p.src.buf.Discard(p.taken); err != nil {
		return nil, err
	}
	p.taken = 0
	pos := p.src.pos()
	if _, err := p.src.buf.Peek(1); err != nil {
		return nil, err
	}
	left := p.spanSize - pos%p.spanSize
	if left == p.spanSize {
		if err := p.src.spans.begin(Span{In: Range{Off: pos}, Out: Range{Off: pos}}, pos); err != nil {
			return nil, err
		}
	}
	piece, err := p.src.buf.Peek(int(min(left, int64(p.src.buf.Buffered()))))
	p.taken = len(piece)
	return piece, err
}

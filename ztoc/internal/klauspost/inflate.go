// SPDX-License-Identifier: Apache-2.0

// Package klauspost decodes raw DEFLATE streams (RFC 1951) from their start, with a
// report of every block end, and from any block end onwards.
//
// [Scanner] reads a whole stream and calls back at each [BlockEnd]; [Resumer]
// continues at one of them.
//
//	s := klauspost.NewScanner(br, pos, func(b klauspost.BlockEnd) { ... })
//	n, err := s.Read(p) // io.EOF behind the final block
//
// # Limits
//
// A Scanner and a Resumer each hold one stream's state, about 60 KiB, and are
// not for concurrent use.
//
// # Decisions
//
//   - This package is the only one that knows the inflater, klauspost/compress at
//     present: another core replaces it here and nowhere else.
//   - Bit positions are counted as DEFLATE counts them, from the low-order bit of
//     the first byte. The wire format's way to write them is the caller's affair.
//   - klauspost drops the block callback on Reset, so a Scanner is made anew for
//     each stream; only layers of very many tiny members notice.
//   - klauspost looks 10 bits beyond the end of every block but the last, where the
//     next block must be. At the end of a piece there is none: a Resumer feeds it
//     zero bits there, too few for the header of the stored block they begin. So
//     decoding stops exactly at the end of the piece, and never makes up a byte.
//   - When a stored block follows, klauspost counts the bytes it has looked ahead
//     twice. A Scanner corrects the position by what has been taken from the input.
package klauspost

import (
	"bufio"
	"io"

	"github.com/klauspost/compress/flate"
)

// WindowSize is the history a block may refer back to, in bytes.
const WindowSize = 32 << 10

// BlockEnd is the state of a stream behind one of its blocks.
type BlockEnd struct {
	Bit    int64  // position in the input, in bits
	Out    int64  // bytes inflated so far, of which some may not have been read yet
	Final  bool   // the block was the stream's last
	Window []byte // the last min(Out, WindowSize) inflated bytes; valid during the callback only
}

// Scanner inflates one stream and reports its block ends.
type Scanner struct {
	r       io.ReadCloser
	pos     func() int64
	start   int64 // of the stream, by pos
	excess  int64 // bytes that klauspost has counted twice so far
	onBlock func(BlockEnd)
}

// NewScanner returns a Scanner of the stream that starts at r's next byte, whose
// offset in the input pos tells at any time. It consumes r exactly up to the last
// byte of the final block. onBlock runs inside Read.
func NewScanner(r *bufio.Reader, pos func() int64, onBlock func(BlockEnd)) *Scanner {
	s := &Scanner{pos: pos, start: pos(), onBlock: onBlock}
	s.r = flate.NewReaderOpts(r, flate.WithEobCallback(s.blockEnd))
	return s
}

// Read inflates into p. It returns io.EOF behind the final block and
// io.ErrUnexpectedEOF where the input ends before.
func (s *Scanner) Read(p []byte) (int, error) { return s.r.Read(p) }

// blockEnd passes klauspost's checkpoint on, with the position put right. Behind
// a stored block no bits are held, so the bytes taken tell the excess exactly;
// behind any other the excess is as before, and the bytes taken run ahead.
func (s *Scanner) blockEnd(cp flate.InflateCheckpoint) {
	bit := cp.CompressedOffset*8 + int64(cp.BitOffset)
	s.excess = max(s.excess, (bit+7)/8-(s.pos()-s.start))
	s.onBlock(BlockEnd{
		Bit:    (s.start-s.excess)*8 + bit,
		Out:    cp.UncompressedOffset,
		Final:  cp.Final,
		Window: cp.Window,
	})
}

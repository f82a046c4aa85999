// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
)

// Defaults of BuildOptions, the incumbent's.
const (
	DefaultSpanSize  = 4 << 20
	DefaultBuildTool = "AWS SOCI CLI v0.2"
	// EveryBlock as a span size puts a checkpoint at every deflate block (span size 0 on the wire and the command line).
	EveryBlock = -1
)

const (
	version    = "0.9"
	readBuffer = 512 << 10 // of compressed bytes
)

// BuildOptions configures Build.
type BuildOptions struct {
	SpanSize    int64       // target uncompressed bytes a span; 0 means DefaultSpanSize
	Compression Compression // of the layer; 0 means detect from its first bytes
	BuildTool   string      // recorded in the zTOC; "" means DefaultBuildTool
}

// Build reads a layer once from r to its end and returns its zTOC. Beside the
// zTOC itself it needs about 1 MiB of memory, and what the records of one entry's
// PAX header take while that is read, which has up to 1 MiB.
//
// A fault of the layer is a *FormatError, or an error that matches ErrUnsupported
// or ErrLimit; a failing read of r and the end of ctx come back wrapped.
func Build(ctx context.Context, r io.Reader, opts BuildOptions) (*ZTOC, error) {
	spanSize := opts.SpanSize
	switch {
	case spanSize == 0:
		spanSize = DefaultSpanSize
	case spanSize == EveryBlock:
		spanSize = 0
	case spanSize < 0:
		return nil, fmt.Errorf("span size %d: %w", spanSize, ErrUnsupported)
	}
	src := &source{ctx: ctx, r: r, spans: newSpanner()}
	src.buf = bufio.NewReaderSize(src, readBuffer)
	z, err := build(src, spanSize, opts.Compression)
	if src.err != nil {
		return nil, fmt.Errorf("read layer at offset %d: %w", src.size, src.err)
	}
	if err != nil {
		return nil, fmt.Errorf("index layer: %w", err)
	}
	if z.BuildTool = opts.BuildTool; z.BuildTool == "" {
		z.BuildTool = DefaultBuildTool
	}
	return z, nil
}

// build indexes the layer that src delivers; want 0 means to detect its compression.
func build(src *source, spanSize int64, want Compression) (*ZTOC, error) {
	c, err := detect(src.buf, want)
	if err != nil {
		return nil, err
	}
	var in chunker
	switch c {
	case Gzip:
		in = newGzipChunker(src, spanSize)
	case Uncompressed:
		if spanSize == 0 {
			return nil, fmt.Errorf("a span per deflate block of an uncompressed layer: %w", ErrUnsupported)
		}
		in = newPlainChunker(src, spanSize)
	default:
		return nil, fmt.Errorf("compression %d: %w", c, ErrUnsupported)
	}
	out := &stream{in: in}
	toc, err := walk(out)
	if fe := (*FormatError)(nil); want == 0 && c == Uncompressed && errors.As(err, &fe) && fe.Off == 0 {
		return nil, &FormatError{Field: "layer", Off: 0, Err: fmt.Errorf("neither gzip nor tar: %w", fe.Err)}
	}
	if err != nil {
		return nil, err
	}
	size := out.off
	if err := out.drain(); err != nil {
		return nil, err
	}
	spans, err := src.spans.finish(src.size, size)
	if err != nil {
		return nil, err
	}
	return &ZTOC{Version: version, TOC: toc, ZInfo: &ZInfo{
		Compression:      c,
		SpanSize:         spanSize,
		CompressedSize:   src.size,
		UncompressedSize: size,
		Spans:            spans,
	}}, nil
}

// detect returns want, or what the first bytes of r are if want is 0.
func detect(r *bufio.Reader, want Compression) (Compression, error) {
	head, err := r.Peek(4)
	if len(head) == 0 {
		return 0, &FormatError{Field: "layer", Off: 0, Err: noEOF(err)}
	}
	switch {
	case want != 0:
		return want, nil
	case len(head) >= 2 && head[0] == gzipID1 && head[1] == gzipID2:
		return Gzip, nil
	case string(head) == "\x28\xb5\x2f\xfd":
		return 0, fmt.Errorf("zstd layer: %w", ErrUnsupported)
	}
	return Uncompressed, nil
}

// source delivers the compressed bytes of a layer: counted, digested by spans,
// and buffered for the inflater.
type source struct {
	ctx   context.Context //nolint:containedctx // lives for one Build, in which Read has no other way to see it
	r     io.Reader
	buf   *bufio.Reader // over this source
	spans *spanner
	size  int64 // delivered so far
	err   error // the first that is not io.EOF
}

// settleSlack keeps some bytes before the reading position undigested: the
// inflater may hold a few bits of them when it ends a block.
const settleSlack = 8

// Read fills p for buf.
func (s *source) Read(p []byte) (int, error) {
	if s.err == nil {
		s.err = s.ctx.Err()
	}
	if s.err != nil {
		return 0, s.err
	}
	s.spans.settle(s.pos() - settleSlack)
	n, err := s.r.Read(p)
	s.spans.write(p[:n])
	if s.size += int64(n); s.size > MaxLayerSize {
		err = fmt.Errorf("more than %d bytes: %w", int64(MaxLayerSize), ErrLimit)
	}
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// pos is the offset of the next byte that buf returns.
func (s *source) pos() int64 { return s.size - int64(s.buf.Buffered()) }

// chunker yields the uncompressed bytes of a layer piece by piece. A piece is
// valid until the next call; io.EOF follows the last, when the layer has been
// read to its end and found sound.
type chunker interface {
	next() ([]byte, error)
}

// stream makes the pieces of a chunker one stream that counts what is taken.
type stream struct {
	in   chunker
	rest []byte
	off  int64
	err  error // the first of in, io.EOF included
}

// fill makes rest non-empty.
func (s *stream) fill() error {
	for len(s.rest) == 0 {
		if s.err != nil {
			return s.err
		}
		if s.rest, s.err = s.in.next(); s.err != nil {
			s.rest = nil
		}
	}
	return nil
}

// Read copies the next bytes to p.
func (s *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.fill(); err != nil {
		return 0, err
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	s.off += int64(n)
	return n, nil
}

// Seek skips forward from the current position. It exists so that archive/tar
// passes over file data without copying it.
func (s *stream) Seek(n int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || n < 0 {
		return 0, errors.ErrUnsupported
	}
	for n > 0 {
		if err := s.fill(); err != nil {
			return s.off, noEOF(err)
		}
		k := min(n, int64(len(s.rest)))
		s.rest = s.rest[k:]
		s.off += k
		n -= k
	}
	return s.off, nil
}

// drain takes everything up to the end.
func (s *stream) drain() error {
	for {
		s.off += int64(len(s.rest))
		s.rest = nil
		if err := s.fill(); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
}

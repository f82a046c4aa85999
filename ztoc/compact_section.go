// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// The sections of a compact zTOC lie one behind the other, behind a directory that
// has a record for each. A section is stored as it is, or as zstd frames where that
// is smaller. What a section means, and of how many elements a column is, follows
// from its place.

// compressors keeps idle encoders of sections, which take some MiB each.
var compressors sync.Pool

// borrowCompressor returns an idle encoder, or a new one. It goes back to compressors.
// Better levels gain up to 4% and need 4 to 34 MiB and more time.
func borrowCompressor() *zstd.Encoder {
	if e, ok := compressors.Get().(*zstd.Encoder); ok {
		return e
	}
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(sectionWindow))
	if err != nil {
		panic("ztoc: internal error: " + err.Error()) // the options are constants
	}
	return e
}

// decompressors keeps idle decoders, which decode into the capacity that they are
// given and need no memory in proportion to what they are told.
var decompressors sync.Pool

// borrowDecompressor returns an idle decoder, or a new one. It goes back to decompressors.
func borrowDecompressor() *zstd.Decoder {
	if d, ok := decompressors.Get().(*zstd.Decoder); ok {
		return d
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic("ztoc: internal error: " + err.Error()) // the options are constants
	}
	return d
}

// sectionWindow is how far back a section may refer: with the default of 8 MiB they
// get no smaller, but the encoder's memory larger.
const sectionWindow = 1 << 20

// leastPacked is the least number of bytes that can get smaller.
const leastPacked = 32

// pack appends p to dst, as a zstd frame if that is smaller. Without an encoder it
// never is.
func pack(e *zstd.Encoder, dst, p []byte) []byte {
	before := len(dst)
	if e != nil && len(p) >= leastPacked {
		if dst = e.EncodeAll(p, dst); len(dst)-before < len(p) {
			return dst
		}
	}
	return append(dst[:before], p...)
}

// unpack decodes stored, a section or part of a group, to dst, which it must fill.
func unpack(d *zstd.Decoder, dst, stored []byte) error {
	if len(stored) == len(dst) {
		copy(dst, stored)
		return nil
	}
	p, err := d.DecodeAll(stored, dst[:0:len(dst)])
	if err == nil && len(p) != len(dst) {
		err = fmt.Errorf("%d bytes, want %d", len(p), len(dst))
	}
	if err == nil && &p[0] != &dst[0] { // len(stored) < len(dst)
		err = errors.New("decoded elsewhere")
	}
	return err
}

// sectionWriter collects sections and their directory.
type sectionWriter struct {
	enc  *zstd.Encoder // nil: everything is stored as it is
	dir  []byte
	body []byte
	raw  int64    // bytes of all sections when they are unpacked
	buf  []byte   // a plane
	vals []uint64 // elements of a column
	at   int      // place in body of more
	more *spool   // a section that is not in body; nil: there is none
}

// fork returns a writer for sections that may be dropped.
func (w *sectionWriter) fork() *sectionWriter {
	return &sectionWriter{enc: w.enc, buf: w.buf, vals: w.vals}
}

// join appends the sections of a fork.
func (w *sectionWriter) join(f *sectionWriter) {
	w.dir = append(w.dir, f.dir...)
	w.body = append(w.body, f.body...)
	w.raw += f.raw
}

// size is the size of the directory and all sections.
func (w *sectionWriter) size() int64 {
	n := int64(len(w.dir) + len(w.body))
	if w.more != nil {
		n += w.more.size()
	}
	return n
}

// writeTo writes the sections.
func (w *sectionWriter) writeTo(out io.Writer) error {
	if w.more == nil {
		_, err := out.Write(w.body)
		return err
	}
	if _, err := out.Write(w.body[:w.at]); err != nil {
		return err
	}
	if err := w.more.writeTo(out); err != nil {
		return err
	}
	_, err := out.Write(w.body[w.at:])
	return err
}

// text appends a section of bytes.
func (w *sectionWriter) text(p []byte) {
	stored := len(w.body)
	w.body = pack(w.enc, w.body, p)
	w.dir = binary.AppendUvarint(w.dir, uint64(len(p)))
	w.dir = binary.AppendUvarint(w.dir, uint64(len(w.body)-stored))
	w.raw += int64(len(p))
}

// stored appends a section of bytes that do not get smaller.
func (w *sectionWriter) stored(p []byte) {
	w.dir = binary.AppendUvarint(w.dir, uint64(len(p)))
	w.dir = binary.AppendUvarint(w.dir, uint64(len(p)))
	w.body = append(w.body, p...)
	w.raw += int64(len(p))
}

// spooled appends what s has as a section, which is stored as it is. There is one at most.
func (w *sectionWriter) spooled(s *spool) {
	w.at, w.more = len(w.body), s
	w.dir = binary.AppendUvarint(w.dir, uint64(s.size()))
	w.dir = binary.AppendUvarint(w.dir, uint64(s.size()))
	w.raw += s.size()
}

// column begins a column: planes follow.
func (w *sectionWriter) column(kind uint8, width int, base int64) {
	w.dir = append(w.dir, kind<<4|uint8(width))
	w.dir = binary.AppendUvarint(w.dir, zigzag(base))
}

// planes appends the width byte planes of n elements, a frame each.
func (w *sectionWriter) planes(n, width int, raw func(int) uint64) {
	stored := len(w.body)
	if cap(w.buf) < n {
		w.buf, w.vals = make([]byte, n), make([]uint64, n)
	}
	plane, vals := w.buf[:n], w.vals[:n]
	for i := range vals {
		vals[i] = raw(i)
	}
	for packed := w.enc != nil; ; packed = false {
		for k := range width {
			for i := range plane {
				plane[i] = byte(vals[i] >> (8 * k))
			}
			if packed {
				w.body = w.enc.EncodeAll(plane, w.body)
			} else {
				w.body = append(w.body, plane...)
			}
		}
		if !packed || len(w.body)-stored < n*width || n*width == 0 {
			break
		}
		w.body = w.body[:stored]
	}
	w.dir = binary.AppendUvarint(w.dir, uint64(len(w.body)-stored))
	w.raw += int64(n) * int64(width)
}

// sectionReader takes sections apart. Its first error stays.
type sectionReader struct {
	dir   []byte
	body  []byte
	left  int64 // bytes that may still be unpacked
	parts []section
	err   error
}

// section is one whose contents are yet to be unpacked to *dst.
type section struct {
	dst    *[]byte
	size   int
	stored []byte
}

// uvarint returns the next number of the directory, which is at most limit.
func (r *sectionReader) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(r.dir)
	if n <= 0 || v > limit {
		r.fail("number that is missing or greater than %d", limit)
		return 0
	}
	r.dir = r.dir[n:]
	return v
}

func (r *sectionReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = badf("section directory", format, args...)
	}
}

// text has a section of bytes, of which there are at most limit, unpacked to *dst.
func (r *sectionReader) text(dst *[]byte, limit int64) {
	size := r.uvarint(uint64(limit))
	r.section(dst, int(size))
}

// section has the next section unpacked to *dst.
func (r *sectionReader) section(dst *[]byte, size int) {
	stored := r.uvarint(uint64(size))
	if r.err == nil && stored > uint64(len(r.body)) {
		r.fail("section of %d bytes, %d are left", stored, len(r.body))
	}
	if r.left -= int64(size); r.err == nil && r.left < 0 {
		r.err = fmt.Errorf("section of %d bytes: %w: too much for so few bytes", size, ErrLimit)
	}
	if r.err != nil {
		return
	}
	r.parts = append(r.parts, section{dst, size, r.body[:stored:stored]})
	r.body = r.body[stored:]
}

// plain, best and running have a column of n elements unpacked to c: a plain one,
// one that may have a dictionary, a running one.
func (r *sectionReader) plain(c *column, n int)   { r.columnOf(c, n, colPlain, colPlain) }
func (r *sectionReader) best(c *column, n int)    { r.columnOf(c, n, colPlain, colDict) }
func (r *sectionReader) running(c *column, n int) { r.columnOf(c, n, colRunning, colRunning) }

// columnOf has a column of n elements, of a kind from least to most, unpacked to c.
func (r *sectionReader) columnOf(c *column, n int, least, most uint8) {
	if r.err != nil {
		return
	}
	if len(r.dir) == 0 {
		r.fail("column is missing")
		return
	}
	*c = column{kind: r.dir[0] >> 4, width: int(r.dir[0] & 15), n: n}
	r.dir = r.dir[1:]
	c.base = unzigzag(r.uvarint(math.MaxUint64))
	if c.kind < least || c.kind > most || c.width > maxColWidth {
		r.fail("column of kind %d and width %d", c.kind, c.width)
		return
	}
	r.section(&c.data, n*c.width)
	switch c.kind {
	case colDict:
		if c.base < 1 || c.base > int64(max(n, 1)) {
			r.fail("dictionary of %d for %d elements", c.base, n)
			return
		}
		c.more = new(column)
		r.running(c.more, int(c.base))
	case colRunning:
		c.more = new(column)
		r.plain(c.more, blocks(n))
	}
}

// unpackAll unpacks all sections to one piece of memory.
func (r *sectionReader) unpackAll() error {
	if r.err != nil {
		return r.err
	}
	if len(r.dir) != 0 || len(r.body) != 0 {
		return badf("compact zTOC", "%d bytes behind the directory, %d behind the last section", len(r.dir), len(r.body))
	}
	size := 0
	for _, s := range r.parts {
		if len(s.stored) < s.size {
			size += s.size
		}
	}
	p := make([]byte, size)
	for _, s := range r.parts {
		if len(s.stored) == s.size {
			*s.dst = s.stored // used in place
		} else {
			*s.dst, p = p[:s.size:s.size], p[s.size:]
		}
	}
	var (
		next  atomic.Int64
		wg    sync.WaitGroup
		other error
	)
	if size >= leastShared {
		wg.Go(func() { other = r.unpackParts(&next) })
	}
	err := r.unpackParts(&next)
	wg.Wait()
	return cmp.Or(err, other)
}

// leastShared is how many bytes two goroutines unpack sooner than one.
const leastShared = 256 << 10

// unpackParts unpacks parts as long as there are any left, of which next is the first.
func (r *sectionReader) unpackParts(next *atomic.Int64) error {
	d := borrowDecompressor()
	defer decompressors.Put(d)
	for {
		i := int(next.Add(1)) - 1
		if i >= len(r.parts) {
			return nil
		}
		s := &r.parts[i]
		if len(s.stored) == s.size {
			continue
		}
		if err := unpack(d, *s.dst, s.stored); err != nil {
			return badf("section", "%d of %d bytes: %w", i, s.size, err)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sort"

	"github.com/seekoci/seekoci/ztoc/internal/klauspost"
)

// errOutput says that a span inflates to more bytes than it declares.
var errOutput = errors.New("more output than declared")

// SpanAt returns the id of the span that holds uncompressed offset off,
// 0 <= off < z.UncompressedSize.
func (z *ZInfo) SpanAt(off int64) int {
	return sort.Search(len(z.Spans), func(i int) bool { return z.Spans[i].Out.Off > off }) - 1
}

// SpansOf returns the ids [first, end) of the spans that hold uncompressed range r,
// which must lie within the layer. An empty range has no spans.
func (z *ZInfo) SpansOf(r Range) (first, end int) {
	first = z.SpanAt(r.Off)
	if r.Len <= 0 {
		return first, first
	}
	return first, z.SpanAt(r.End()-1) + 1
}

// Verify checks src, the bytes of Spans[id].In, against the span's digest. A
// mismatch, of the length too, matches ErrDigest.
func (z *ZInfo) Verify(id int, src []byte) error {
	s, err := z.span(id)
	if err != nil {
		return fmt.Errorf("verify %w", err)
	}
	if int64(len(src)) != s.In.Len {
		return fmt.Errorf("verify span %d: %w: %d bytes, want %d", id, ErrDigest, len(src), s.In.Len)
	}
	if sum := sha256.Sum256(src); sum != s.Sum {
		return fmt.Errorf("verify span %d: %w: have sha256:%x, want sha256:%x", id, ErrDigest, sum, s.Sum)
	}
	return nil
}

// Decode inflates span id from src, the verified bytes of Spans[id].In, into dst,
// whose length must be Spans[id].Out.Len. It is safe for concurrent use and does
// not allocate after warm-up.
//
// A span that does not inflate to exactly its declared bytes is a *FormatError,
// with dst undefined.
func (z *ZInfo) Decode(dst []byte, id int, src []byte) error {
	s, err := z.span(id)
	if err != nil {
		return fmt.Errorf("decode %w", err)
	}
	if int64(len(src)) != s.In.Len || int64(len(dst)) != s.Out.Len {
		return fmt.Errorf("decode span %d: %d bytes into %d, want %d into %d", id, len(src), len(dst), s.In.Len, s.Out.Len)
	}
	if z.Compression == Uncompressed {
		if n := copy(dst, src); n < len(dst) {
			return z.decodeError(id, n, io.ErrUnexpectedEOF)
		}
		return nil
	}
	d := z.pool.Get()
	defer z.pool.Put(d)
	var cut uint8 // bits of the last byte that belong to the next span
	if id+1 < len(z.Spans) {
		cut = z.Spans[id+1].Bits
	}
	if err := d.Resume(src, (8-s.Bits)&7, cut, s.Window); err != nil {
		return z.decodeError(id, 0, err)
	}
	n, err := inflateFull(d, dst)
	if err != nil {
		return z.decodeError(id, n, err)
	}
	if s.Out.End() >= z.UncompressedSize {
		return nil // tar padding may follow, which the zTOC does not count
	}
	if n, _ := inflateFull(d, d.Scratch[:]); n != 0 {
		return z.decodeError(id, len(dst), errOutput)
	}
	return nil
}

// span returns span id, or an error that names it.
func (z *ZInfo) span(id int) (*Span, error) {
	if id < 0 || id >= len(z.Spans) {
		return nil, fmt.Errorf("span %d: the layer has %d", id, len(z.Spans))
	}
	return &z.Spans[id], nil
}

// decodeError returns the error of span id, which failed behind n bytes of output.
func (z *ZInfo) decodeError(id, n int, err error) error {
	return fmt.Errorf("decode span %d: %w", id, &FormatError{Field: "span", Off: z.Spans[id].Out.Off + int64(n), Err: err})
}

// inflateFull fills p from d, across the borders of gzip members. Input that ends
// before p is full is io.ErrUnexpectedEOF.
func inflateFull(d *klauspost.Resumer, p []byte) (int, error) {
	n := 0
	for n < len(p) {
		k, err := d.Read(p[n:])
		if n += k; err == nil || n == len(p) {
			continue // the last bytes of a span come with the error that its input ends
		}
		if err != io.EOF {
			return n, err
		}
		for range gzipTrailer {
			if _, err := d.ReadByte(); err != nil {
				return n, noEOF(err)
			}
		}
		if err := readGzipHeader(d); err != nil {
			return n, err
		}
		if err := d.Restart(); err != nil {
			return n, err
		}
	}
	return n, nil
}

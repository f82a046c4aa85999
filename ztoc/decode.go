// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sort"
)

// The ways in which a span is not what its zTOC says.
var (
	errOutput = errors.New("more output than declared")
	errEnd    = errors.New("does not end where the next span begins")
	errRange  = errors.New("not within the span")
)

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
		return fmt.Errorf("verify span %d: %w: have sha256:%s, want sha256:%s", id, ErrDigest,
			hex.EncodeToString(sum[:]), hex.EncodeToString(s.Sum[:]))
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
	d, err := z.Open(id, src)
	if err != nil {
		return err
	}
	defer d.Close()
	_, err = d.Fill(dst, int64(len(dst)))
	return err
}

// DecodeRange inflates the bytes [off, off+len(dst)) of span id, counted from the
// span's first, from src, the verified bytes of Spans[id].In. It decodes the span
// no further, and keeps nothing of what comes before but the history, so it needs
// some 200 KiB of pooled memory however large the span is. It is safe for
// concurrent use and does not allocate after warm-up; errors are those of Decode,
// as far as the span has been decoded.
func (z *ZInfo) DecodeRange(dst []byte, id int, off int64, src []byte) error {
	d, err := z.Open(id, src)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.readRange(dst, off)
}

// Open begins to decode span id from src, the verified bytes of Spans[id].In, which
// must stay as they are until Close. It does not allocate after warm-up.
func (z *ZInfo) Open(id int, src []byte) (*SpanDecoder, error) {
	s, err := z.span(id)
	if err != nil {
		return nil, fmt.Errorf("decode %w", err)
	}
	if int64(len(src)) != s.In.Len {
		return nil, fmt.Errorf("decode span %d: %d bytes, want %d", id, len(src), s.In.Len)
	}
	d, ok := decoders.Get().(*SpanDecoder)
	if !ok {
		d = new(SpanDecoder)
	}
	if err := d.begin(z, id, src); err != nil {
		d.Close()
		return nil, z.decodeError(id, 0, err)
	}
	return d, nil
}

// span returns span id, or an error that names it.
func (z *ZInfo) span(id int) (*Span, error) {
	if id < 0 || id >= len(z.Spans) {
		return nil, fmt.Errorf("span %d: the layer has %d", id, len(z.Spans))
	}
	return &z.Spans[id], nil
}

// decodeError returns the error of span id, which failed behind n bytes of output.
func (z *ZInfo) decodeError(id int, n int64, err error) error {
	return fmt.Errorf("decode span %d: %w", id, &FormatError{Field: "span", Off: z.Spans[id].Out.Off + n, Err: err})
}

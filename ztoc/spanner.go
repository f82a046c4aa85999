// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"crypto/sha256"
	"fmt"
	"hash"
)

// spanner cuts the compressed bytes of a layer into spans and digests each, in the
// same pass that delivers the bytes. Bytes arrive before it is known where the
// current span ends, so those behind the last settled offset are kept.
type spanner struct {
	spans   []Span
	hash    hash.Hash
	open    bool   // bytes belong to a span; false before the first
	max     int    // number of spans that a zTOC can hold
	base    int64  // offset of pending[0]
	pending []byte // delivered, not yet digested; the end of buf
	buf     []byte
}

func newSpanner() *spanner { return &spanner{hash: sha256.New()} }

// write delivers the next compressed bytes.
func (s *spanner) write(p []byte) {
	s.buf = append(append(s.buf[:0], s.pending...), p...)
	s.pending = s.buf
}

// settle says that no span will begin before off.
func (s *spanner) settle(off int64) {
	n := off - s.base
	if n <= 0 {
		return
	}
	if s.open {
		s.hash.Write(s.pending[:n])
	}
	s.pending = s.pending[n:]
	s.base = off
}

// begin ends the current span at compressed offset end and begins the next, of
// which In.Off, Out.Off, Bits and Window are given. In.Off is end, or the byte
// before where a byte is shared.
func (s *spanner) begin(next Span, end int64) error {
	if len(s.spans) >= s.max {
		return fmt.Errorf("span %d: %w: the zTOC would exceed %d bytes: use a larger span size", len(s.spans), ErrLimit, int64(MaxSize))
	}
	if err := s.end(end, next.In.Off); err != nil {
		return err
	}
	s.spans = append(s.spans, next)
	s.open = true
	return nil
}

// end ends the current span at end and forgets the bytes before keep.
func (s *spanner) end(end, keep int64) error {
	if keep < s.base || end-s.base > int64(len(s.pending)) {
		return fmt.Errorf("ztoc: internal error: span boundary %d outside of the bytes at hand, [%d, %d)", end, s.base, s.base+int64(len(s.pending)))
	}
	if s.open {
		s.hash.Write(s.pending[:end-s.base])
		last := &s.spans[len(s.spans)-1]
		last.In.Len = end - last.In.Off
		s.hash.Sum(last.Sum[:0])
		s.hash.Reset()
		s.open = false
	}
	s.settle(keep)
	return nil
}

// finish ends the last span at the layer's end and bounds every span's output by
// size, the uncompressed size of the layer.
func (s *spanner) finish(compressed, size int64) ([]Span, error) {
	if err := s.end(compressed, compressed); err != nil {
		return nil, err
	}
	setOutLens(s.spans, size)
	return s.spans, nil
}

// setOutLens sets Out.Len of spans from their neighbours' offsets. Padding behind
// the tar's end-of-archive marker, behind size, belongs to no span's output.
func setOutLens(spans []Span, size int64) {
	next := size
	for i := len(spans) - 1; i >= 0; i-- {
		out := &spans[i].Out
		out.Len = max(0, min(next, size)-out.Off)
		next = out.Off
	}
}

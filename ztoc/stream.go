// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"errors"
	"io"
)

// stream makes pieces one stream that counts what is taken.
type stream struct {
	next func() ([]byte, error) // of which each is valid until the next; io.EOF when the layer is sound
	rest []byte
	off  int64
	err  error // the first of next, io.EOF included
}

// fill makes rest non-empty.
func (s *stream) fill() error {
	for len(s.rest) == 0 {
		if s.err != nil {
			return s.err
		}
		if s.rest, s.err = s.next(); s.err != nil {
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

// SPDX-License-Identifier: Apache-2.0

package ztoc

import "encoding/binary"

// strs reads strings and numbers one after another. Its first error stays.
type strs struct {
	p   []byte
	bad bool
}

func (s *strs) uvarint() uint64 {
	v, n := binary.Uvarint(s.p)
	if n <= 0 {
		s.bad, s.p = true, nil
		return 0
	}
	s.p = s.p[n:]
	return v
}

func (s *strs) byte() byte {
	if len(s.p) == 0 {
		s.bad = true
		return 0
	}
	b := s.p[0]
	s.p = s.p[1:]
	return b
}

func (s *strs) bytes() []byte {
	n := s.uvarint()
	if n > uint64(len(s.p)) {
		s.bad, s.p = true, nil
		return nil
	}
	p := s.p[:n]
	s.p = s.p[n:]
	return p
}

func (s *strs) string() string { return string(s.bytes()) }

// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"fmt"
	"io"
	"os"
)

const (
	spoolMemory = 4 << 20 // bytes of a spool that stay in memory as long as there are no more
	spoolBlock  = 2 << 20 // of memory, and of the file that is written at once
)

// spool keeps what is appended to it: in memory as long as it is little, then in a
// temporary file without a name.
type spool struct {
	dir    string   // of the file; "" means os.TempDir
	file   *os.File // nil as long as there is none
	saved  int64    // bytes in the file
	blocks [][]byte // what follows them, all but the last one full
	block  int      // bytes of one
	limit  int      // how many there may be
}

func newSpool(dir string) *spool {
	return &spool{dir: dir, block: spoolBlock, limit: spoolMemory / spoolBlock}
}

// size is the offset of what is appended next.
func (s *spool) size() int64 {
	n := len(s.blocks)
	if n == 0 {
		return s.saved
	}
	return s.saved + int64(n-1)*int64(s.block) + int64(len(s.blocks[n-1]))
}

// append keeps a copy of p.
func (s *spool) append(p []byte) error {
	for len(p) > 0 {
		n := len(s.blocks)
		if n == 0 || len(s.blocks[n-1]) == s.block {
			if n == s.limit {
				if err := s.save(); err != nil {
					return err
				}
				continue
			}
			s.blocks = append(s.blocks, newSlab[byte](s.block)[:0])
			n++
		}
		b := &s.blocks[n-1]
		k := min(len(p), s.block-len(*b))
		*b, p = append(*b, p[:k]...), p[k:]
	}
	return nil
}

// save moves what is in memory to the file.
func (s *spool) save() error {
	if s.file == nil {
		f, err := os.CreateTemp(s.dir, "seekoci-ztoc-*")
		if err != nil {
			return fmt.Errorf("spool %d bytes: %w", s.size(), err)
		}
		s.file = f
		if err := os.Remove(f.Name()); err != nil {
			return fmt.Errorf("spool %d bytes: %w", s.size(), err)
		}
	}
	for _, b := range s.blocks {
		if _, err := s.file.WriteAt(b, s.saved); err != nil {
			return fmt.Errorf("spool %d bytes: %w", len(b), err)
		}
		s.saved += int64(len(b))
	}
	for _, b := range s.blocks[1:] {
		freeSlab(b)
	}
	s.blocks, s.limit = [][]byte{s.blocks[0][:0]}, 1
	return nil
}

// read fills p with what lies at off.
func (s *spool) read(p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > s.size() {
		return fmt.Errorf("read spool: %d bytes at %d: %w", len(p), off, io.ErrUnexpectedEOF)
	}
	if n := min(s.saved-off, int64(len(p))); n > 0 {
		if _, err := s.file.ReadAt(p[:n], off); err != nil {
			return fmt.Errorf("read spool: %w", err)
		}
		p, off = p[n:], s.saved
	}
	for at := int(off - s.saved); len(p) > 0; {
		k := copy(p, s.blocks[at/s.block][at%s.block:])
		p, at = p[k:], at+k
	}
	return nil
}

// writeTo writes all of it.
func (s *spool) writeTo(w io.Writer) error {
	if s.saved > 0 {
		if _, err := io.Copy(w, io.NewSectionReader(s.file, 0, s.saved)); err != nil {
			return fmt.Errorf("read spool: %w", err)
		}
	}
	for _, b := range s.blocks {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// Close frees everything.
func (s *spool) Close() error {
	for _, b := range s.blocks {
		freeSlab(b)
	}
	s.blocks = nil
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

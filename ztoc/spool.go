// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"fmt"
	"io"
	"os"
)

const (
	spoolMemory = 8 << 20   // bytes of a spool that stay in memory as long as there are no more
	spoolBuffer = 512 << 10 // of them, once there is a file
)

// spool keeps what is appended to it: in memory as long as it is little, then in a
// temporary file without a name.
type spool struct {
	dir   string   // of the file; "" means os.TempDir
	file  *os.File // nil as long as there is none
	saved int64    // bytes in the file
	mem   []byte   // what follows them
	limit int      // of mem
}

func newSpool(dir string) *spool { return &spool{dir: dir, limit: spoolMemory} }

// size is the offset of what is appended next.
func (s *spool) size() int64 { return s.saved + int64(len(s.mem)) }

// append keeps a copy of p.
func (s *spool) append(p []byte) error {
	if s.mem = append(s.mem, p...); len(s.mem) < s.limit {
		return nil
	}
	return s.save()
}

// save moves what is in memory to the file.
func (s *spool) save() error {
	if s.file == nil {
		f, err := os.CreateTemp(s.dir, "seekoci-ztoc-*")
		if err != nil {
			return fmt.Errorf("spool %d bytes: %w", len(s.mem), err)
		}
		s.file = f
		if err := os.Remove(f.Name()); err != nil {
			return fmt.Errorf("spool %d bytes: %w", len(s.mem), err)
		}
	}
	if _, err := s.file.WriteAt(s.mem, s.saved); err != nil {
		return fmt.Errorf("spool %d bytes: %w", len(s.mem), err)
	}
	s.saved += int64(len(s.mem))
	s.mem = s.mem[:0]
	if s.limit = spoolBuffer; cap(s.mem) > 2*s.limit {
		s.mem = make([]byte, 0, s.limit)
	}
	return nil
}

// read fills p with what lies at off, which was appended in one piece.
func (s *spool) read(p []byte, off int64) error {
	switch {
	case off >= s.saved && off+int64(len(p)) <= s.size():
		copy(p, s.mem[off-s.saved:])
		return nil
	case off < 0 || off+int64(len(p)) > s.saved:
		return fmt.Errorf("read spool: %d bytes at %d: %w", len(p), off, io.ErrUnexpectedEOF)
	}
	if _, err := s.file.ReadAt(p, off); err != nil {
		return fmt.Errorf("read spool: %w", err)
	}
	return nil
}

// Close frees everything.
func (s *spool) Close() error {
	s.mem = nil
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

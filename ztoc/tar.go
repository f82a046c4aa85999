// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// walk reads the tar that s delivers up to its end-of-archive marker, and hands
// each entry to f.
func walk(s *stream, f func(e *Entry) error) error {
	var (
		n    int
		size int64
		t    = tarReader{s: s}
	)
	for {
		e, err := t.entry()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if size += e.wireSize(); n >= MaxEntries || size > MaxTOCSize {
			return fmt.Errorf("tar entry %q at offset %d: %w: more than %d entries or %d bytes of names", clip(e.Name), t.at, ErrLimit, MaxEntries, MaxTOCSize)
		}
		if err := f(e); err != nil {
			return err
		}
		n++
	}
}

// tarReader reads the entries of a tar: plain ones itself, with or without PAX
// records, where their headers are at hand, all others with archive/tar.
type tarReader struct {
	s    *stream
	r    *tar.Reader // with which the last entry was read; nil: there is none, or it was a plain one
	e    Entry       // the last entry
	at   int64       // offset of its first header
	next int64       // offset of the next one
}

// entry returns the next entry, valid until the one after it. io.EOF is the end of
// the archive.
func (t *tarReader) entry() (*Entry, error) {
	s := t.s
	if t.r == nil {
		if err := t.skip(); err != nil {
			return nil, err
		}
		s.fill() //nolint:errcheck // archive/tar will see it
	}
	t.at = t.next
	if n := t.plain(t.next - s.off); n > 0 {
		s.rest = s.rest[n:]
		s.off += n
		t.r, t.e.Offset = nil, s.off
	} else if err := t.other(); err != nil {
		return nil, err
	}
	t.next = align(t.e.Offset + t.e.Size)
	return &t.e, nil
}

// plain reads the next entry, n bytes from here, if it is a plain one and all its
// headers are at hand. It returns how far they reach, or 0.
func (t *tarReader) plain(n int64) int64 {
	if int64(len(t.s.rest)) < n+tarBlock {
		return 0
	}
	p := t.s.rest[n:]
	if plainHeader((*[tarBlock]byte)(p), &t.e) {
		return n + tarBlock
	}
	if size := paxEntry(p, &t.e); size > 0 {
		return n + int64(size)
	}
	return 0
}

// other reads the next entry with archive/tar.
func (t *tarReader) other() error {
	s := t.s
	if t.r == nil {
		t.r = tar.NewReader(s)
	}
	hdr, err := t.r.Next()
	if err == io.EOF {
		return err
	}
	if s.err != nil && s.err != io.EOF {
		return s.err // the layer's fault, not the tar's
	}
	if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
		if s.off < t.next {
			return &FormatError{Field: "tar data", Off: s.off, Err: err}
		}
		return &FormatError{Field: "tar header", Off: t.next, Err: err}
	}
	if t.e, err = entryOf(hdr, s.off); err != nil {
		return fmt.Errorf("tar entry %q at offset %d: %w", clip(hdr.Name), t.next, err)
	}
	return nil
}

// skip passes over the data of a plain entry, and what fills their last block. As
// with archive/tar the archive may end within the latter.
func (t *tarReader) skip() error {
	s := t.s
	if _, err := s.Seek(t.e.Offset+t.e.Size-s.off, io.SeekCurrent); err != nil {
		if s.err != io.EOF {
			return s.err
		}
		return &FormatError{Field: "tar data", Off: s.off, Err: err}
	}
	if _, err := s.Seek(t.next-s.off, io.SeekCurrent); err != nil {
		return s.err
	}
	return nil
}

// entryOf returns the entry of hdr, whose data begin at off.
func entryOf(hdr *tar.Header, off int64) (Entry, error) {
	e := Entry{
		Name: hdr.Name, Linkname: hdr.Linkname,
		Offset: off, Size: hdr.Size, Mode: hdr.Mode,
		UID: uint32(hdr.Uid), GID: uint32(hdr.Gid), Uname: hdr.Uname, Gname: hdr.Gname,
		ModTime:  hdr.ModTime.UTC(),
		Devmajor: hdr.Devmajor, Devminor: hdr.Devminor,
	}
	switch hdr.Typeflag {
	case tar.TypeReg:
		e.Type = TypeReg
	case tar.TypeDir:
		e.Type = TypeDir
	case tar.TypeSymlink:
		e.Type = TypeSymlink
	case tar.TypeLink:
		e.Type = TypeHardlink
	case tar.TypeChar:
		e.Type = TypeChar
	case tar.TypeBlock:
		e.Type = TypeBlock
	case tar.TypeFifo:
		e.Type = TypeFifo
	default:
		return Entry{}, fmt.Errorf("%w tar entry type %q", ErrUnsupported, hdr.Typeflag)
	}
	if e.Type != TypeReg {
		e.Size = 0 // such entries have no data, whatever the header says
	}
	if int64(hdr.Uid) != int64(e.UID) || int64(hdr.Gid) != int64(e.GID) {
		return Entry{}, fmt.Errorf("%w owner %d:%d: not in 0..%d", ErrUnsupported, hdr.Uid, hdr.Gid, uint32(math.MaxUint32))
	}
	for _, key := range slices.Sorted(maps.Keys(hdr.PAXRecords)) {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return Entry{}, fmt.Errorf("%w sparse file", ErrUnsupported)
		}
		e.PAX = append(e.PAX, Record{strings.Clone(key), strings.Clone(hdr.PAXRecords[key])})
	}
	if e.PAX != nil {
		// All of these may be parts of the PAX header, which has up to 1 MiB and must not stay for the sake of them.
		for _, s := range [...]*string{&e.Name, &e.Linkname, &e.Uname, &e.Gname} {
			*s = strings.Clone(*s)
		}
	}
	return e, e.check()
}

// wireSize is the least number of bytes the entry takes in a marshalled zTOC.
func (e *Entry) wireSize() int64 {
	n := entrySize + len(e.Name) + len(e.Linkname) + len(e.Uname) + len(e.Gname)
	for i := range e.PAX {
		n += xattrSize + len(e.PAX[i].Key) + len(e.PAX[i].Value)
	}
	return int64(n)
}

// check validates what of an entry can be judged without its neighbours.
func (e *Entry) check() error {
	if e.Name == "" {
		return badf("entry", "empty name")
	}
	for _, s := range [...]struct{ field, value string }{
		{"name", e.Name}, {"link name", e.Linkname}, {"user name", e.Uname}, {"group name", e.Gname},
	} {
		if len(s.value) > MaxName {
			return fmt.Errorf("%s of %d bytes: %w: %d", s.field, len(s.value), ErrLimit, MaxName)
		}
		if strings.IndexByte(s.value, 0) >= 0 {
			return badf(s.field, "NUL byte")
		}
	}
	if e.Type < TypeReg || e.Type > TypeFifo {
		return badf("entry", "type %d", e.Type)
	}
	if e.Size < 0 || e.Size != 0 && e.Type != TypeReg {
		return badf("entry", "size %d", e.Size)
	}
	for i := range e.PAX {
		k, v := e.PAX[i].Key, e.PAX[i].Value
		if k == "" || len(k) > MaxName || len(v) > MaxPAXValue {
			return badf("PAX record", "key of %d bytes, value of %d bytes", len(k), len(v))
		}
		if i > 0 && k <= e.PAX[i-1].Key {
			return badf("PAX record", "key %q is out of order", clip(k))
		}
	}
	return nil
}

// clip shortens a name for an error.
func clip(name string) string {
	const limit = 200
	if len(name) <= limit {
		return name
	}
	return name[:limit] + "..."
}

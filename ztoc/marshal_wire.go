// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
)

// entrySeq is a TOC that can be read both ways. An entry is valid during the call
// of f that gets it; an error of f ends the reading and comes back.
type entrySeq interface {
	count() int
	ascend(f func(i int, e *Entry) error) error
	descend(f func(i int, e *Entry) error) error
}

// toc is the entrySeq in memory.
type toc []Entry

func (t toc) count() int { return len(t) }

func (t toc) ascend(f func(i int, e *Entry) error) error {
	for i := range t {
		if err := f(i, &t[i]); err != nil {
			return err
		}
	}
	return nil
}

func (t toc) descend(f func(i int, e *Entry) error) error {
	for i := len(t) - 1; i >= 0; i-- {
		if err := f(i, &t[i]); err != nil {
			return err
		}
	}
	return nil
}

// digestString is the wire size of a span digest without the offset that leads to
// it: length, text and NUL, which end aligned.
const digestString = digestSize - 4

// wireWriter writes a zTOC 0.9 from front to back without holding it. FlatBuffers
// are made from the back: measure makes all of it, keeps the small parts and the
// positions of the entries, and forgets the rest. write then makes every entry
// once more, at its place.
type wireWriter struct {
	version, tool string
	entries       entrySeq
	zinfo         *ZInfo
	window        func(i int) ([]byte, error) // of span i, valid until the next call; nil means all zeros
	checkpoints   []byte                      // of an uncompressed layer

	size int64 // of the zTOC

	w        flatWriter
	head     []byte // the root and CompressionInfo
	toc      []byte // the table TOC
	tail     []byte // the strings of the root
	tables   []uint32
	forms    entryForms
	ends     map[int]uint32 // of the entries behind whose table a vtable was made
	metadata uint32         // position of the entries' vector
	digests  uint32         // position of the vector of span digests
	padTOC   int            // bytes behind the entries' vector
	blobSize int64
	padBlob  int // bytes behind the checkpoints
}

// fits checks that n bytes more are within the limit.
func (m *wireWriter) fits(n int64) error {
	if n += int64(m.w.pos()); n > MaxSize {
		return fmt.Errorf("%w: %d bytes", ErrLimit, n)
	}
	return nil
}

// skip leaves n bytes to be made by write, and returns their position.
func (m *wireWriter) skip(n int64) (uint32, error) {
	if err := m.fits(n); err != nil {
		return 0, err
	}
	m.w.seek(m.w.pos() + uint32(n))
	return m.w.pos(), nil
}

// measure lays the zTOC out. The order in which things are made is the
// incumbent's and therefore part of the format.
func (m *wireWriter) measure() error {
	if err := m.check(); err != nil {
		return err
	}
	w := &m.w
	ver, tool := w.str(m.version), w.str(m.tool)
	m.tail = bytes.Clone(w.take())
	if err := m.measureEntries(); err != nil {
		return err
	}
	w.table(1)
	w.refField(0, m.metadata)
	toc := w.endTable()
	m.toc = bytes.Clone(w.take())

	w.prep(4, int(m.blobSize%4))
	m.padBlob = len(w.take())
	blob, err := m.skip(m.blobSize + 4)
	if err != nil {
		return err
	}
	if m.digests, err = m.skip(int64(len(m.zinfo.Spans))*digestSize + 4); err != nil {
		return err
	}
	w.table(4)
	w.uint32Field(1, uint32(len(m.zinfo.Spans)-1))
	w.refField(2, m.digests)
	w.refField(3, blob)
	w.int8Field(0, int8(m.zinfo.Compression), int8(Gzip))
	info := w.endTable()

	w.table(6)
	w.refField(0, ver)
	w.refField(1, tool)
	w.refField(4, toc)
	w.int64Field(2, m.zinfo.CompressedSize)
	w.int64Field(3, m.zinfo.UncompressedSize)
	w.refField(5, info)
	w.finish(w.endTable())
	m.head = bytes.Clone(w.take())
	m.size = int64(w.pos())
	return m.fits(0)
}

// check validates what of the zInfo cannot be encoded, and knows the size of the checkpoints.
func (m *wireWriter) check() error {
	z := m.zinfo
	if z == nil || len(z.Spans) == 0 {
		return badf("zTOC", "no spans")
	}
	switch z.Compression {
	case Uncompressed:
		m.checkpoints = z.tarZinfo()
		m.blobSize = int64(len(m.checkpoints))
	case Gzip:
		m.blobSize = checkpointHeader + int64(z.stored())*checkpointSize
	default:
		return fmt.Errorf("%v: %w", z.Compression, ErrUnsupported)
	}
	return nil
}

// measureEntries lays out the entries and their vector.
func (m *wireWriter) measureEntries() error {
	w, n := &m.w, m.entries.count()
	m.tables, m.ends = make([]uint32, n), make(map[int]uint32)
	err := m.entries.descend(func(i int, e *Entry) error {
		if err := e.check(); err != nil {
			return fmt.Errorf("entry %d, %q: %w", i, clip(e.Name), err)
		}
		pos := w.pos()
		if end, ok := m.forms.end(e, pos); ok {
			m.tables[i] = end
			_, err := m.skip(int64(end - pos))
			return err
		}
		m.tables[i] = w.entry(e)
		m.forms.learn(e, pos, m.tables[i])
		if w.pos() != m.tables[i] {
			m.ends[i] = w.pos()
		}
		w.take()
		return m.fits(0)
	})
	if err != nil {
		return err
	}
	w.prep(4, 0)
	m.padTOC = len(w.take())
	m.metadata, err = m.skip(4*int64(n) + 4)
	return err
}

// entry makes an entry and returns the position of its table.
func (w *flatWriter) entry(e *Entry) uint32 {
	name := w.str(e.Name)
	typ := w.str(e.Type.String())
	linkname := w.str(e.Linkname)
	uname := w.str(e.Uname)
	gname := w.str(e.Gname)
	var buf [maxTime]byte
	modTime := w.bytes(appendTime(buf[:0], e.ModTime))
	var records []uint32
	for i := range e.PAX {
		key := w.str(e.PAX[i].Key)
		value := w.str(e.PAX[i].Value)
		w.table(2)
		w.refField(0, key)
		w.refField(1, value)
		records = append(records, w.endTable())
	}
	xattrs := w.refs(records)
	w.table(maxFlatSlots)
	w.refField(0, name)
	w.refField(1, typ)
	w.int64Field(2, e.Offset)
	w.int64Field(3, e.Size)
	w.refField(4, linkname)
	w.int64Field(5, e.Mode)
	w.uint32Field(6, e.UID)
	w.uint32Field(7, e.GID)
	w.refField(8, uname)
	w.refField(9, gname)
	w.refField(10, modTime)
	w.int64Field(11, e.Devmajor)
	w.int64Field(12, e.Devminor)
	w.refField(13, xattrs)
	return w.endTable()
}

// write writes what has been measured.
func (m *wireWriter) write(out io.Writer) error {
	if _, err := out.Write(m.head); err != nil {
		return err
	}
	for _, part := range []func(io.Writer) error{m.writeDigests, m.writeCheckpoints, m.writeTOC, m.writeEntries} {
		if err := part(out); err != nil {
			return err
		}
	}
	_, err := out.Write(m.tail)
	return err
}

// writeRefs writes the vector at pos, of n offsets to what is at the positions at.
func writeRefs(out io.Writer, pos uint32, n int, at func(i int) uint32) error {
	buf := make([]byte, 0, 4<<10)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(n))
	for i := range n {
		pos -= 4 // of the element
		buf = binary.LittleEndian.AppendUint32(buf, pos-at(i))
		if len(buf) == cap(buf) {
			if _, err := out.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	_, err := out.Write(buf)
	return err
}

// writeDigests writes the span digests, of which the last comes first, behind their vector.
func (m *wireWriter) writeDigests(out io.Writer) error {
	spans := m.zinfo.Spans
	first := m.digests - 4 - uint32(len(spans))*digestSize // the position before the first digest
	err := writeRefs(out, m.digests, len(spans), func(i int) uint32 { return first + uint32(i+1)*digestString })
	if err != nil {
		return err
	}
	var buf [digestString]byte
	binary.LittleEndian.PutUint32(buf[:], digestString-5) // less itself and the NUL
	n := 4 + copy(buf[4:], "sha256:")
	for i := len(spans) - 1; i >= 0; i-- {
		hex.Encode(buf[n:], spans[i].Sum[:])
		if _, err := out.Write(buf[:]); err != nil {
			return err
		}
	}
	return nil
}

// writeCheckpoints writes the byte vector of checkpoints.
func (m *wireWriter) writeCheckpoints(out io.Writer) error {
	buf := binary.LittleEndian.AppendUint32(nil, uint32(m.blobSize))
	if m.zinfo.Compression == Uncompressed {
		_, err := out.Write(append(append(buf, m.checkpoints...), make([]byte, m.padBlob)...))
		return err
	}
	spans := m.zinfo.Spans
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(spans)))
	buf = binary.LittleEndian.AppendUint64(buf, uint64(m.zinfo.SpanSize))
	var zeros [windowSize]byte
	for i := len(spans) - m.zinfo.stored(); i < len(spans); i++ {
		s := &spans[i]
		in := s.In.Off
		if s.Bits != 0 {
			in++ // the wire has the first whole byte
		}
		buf = binary.LittleEndian.AppendUint64(buf, uint64(in))
		buf = binary.LittleEndian.AppendUint64(buf, uint64(s.Out.Off))
		if _, err := out.Write(append(buf, s.Bits)); err != nil {
			return err
		}
		buf = buf[:0]
		window, err := m.window(i)
		if err != nil {
			return err
		}
		if window == nil {
			window = zeros[:]
		}
		if len(window) != windowSize {
			return badf("span", "window of %d bytes", len(window))
		}
		if _, err := out.Write(window); err != nil {
			return err
		}
	}
	_, err := out.Write(append(buf, make([]byte, m.padBlob)...))
	return err
}

// stored is the number of checkpoints on the wire.
func (z *ZInfo) stored() int {
	if z.legacy {
		return len(z.Spans) - 1
	}
	return len(z.Spans)
}

// tarZinfo encodes the span layout of an uncompressed layer.
func (z *ZInfo) tarZinfo() []byte {
	var w flatWriter
	w.table(3)
	w.uint32Field(0, tarZinfoVersion)
	w.int64Field(1, z.SpanSize)
	w.int64Field(2, z.CompressedSize)
	w.finish(w.endTable())
	return w.take()
}

// writeTOC writes the table TOC and the vector of entries.
func (m *wireWriter) writeTOC(out io.Writer) error {
	if _, err := out.Write(m.toc); err != nil {
		return err
	}
	if err := writeRefs(out, m.metadata, len(m.tables), func(i int) uint32 { return m.tables[i] }); err != nil {
		return err
	}
	_, err := out.Write(make([]byte, m.padTOC))
	return err
}

// writeEntries makes and writes the entries.
func (m *wireWriter) writeEntries(out io.Writer) error {
	w := &m.w
	defer func(v []vtable) { w.vtables = v }(w.vtables)
	w.vtables = slices.Clone(w.vtables)
	return m.entries.ascend(func(i int, e *Entry) error {
		w.seek(m.end(i + 1))
		for n := len(w.vtables); n > 0 && w.vtables[n-1].pos > w.base; n-- {
			w.vtables = w.vtables[:n-1]
		}
		w.entry(e)
		if w.pos() != m.end(i) {
			return fmt.Errorf("ztoc: internal error: entry %d takes %d bytes, measured %d", i, w.pos()-m.end(i+1), m.end(i)-m.end(i+1))
		}
		_, err := out.Write(w.take())
		return err
	})
}

// end is the position behind which entry i-1 is made.
func (m *wireWriter) end(i int) uint32 {
	if i == len(m.tables) {
		return uint32(len(m.tail))
	}
	if pos, ok := m.ends[i]; ok {
		return pos
	}
	return m.tables[i]
}

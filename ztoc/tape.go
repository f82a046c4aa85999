// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"
	"unsafe"
)

// tape keeps the entries of a layer in tar order, at some tens of bytes each, in a
// spool. It is cut into blocks that can be read by themselves: within a block an
// entry is written as its difference from the one before.
type tape struct {
	spool  *spool
	blocks []tapeBlock
	n      int // entries

	buf   []byte // the open block
	open  int    // entries in it
	names int    // bytes of their names
	prev  Entry  // the last of them
	end   int64  // of its data, rounded up to whole tar blocks
}

// tapeBlock says where a block is.
type tapeBlock struct {
	off   int64 // in the spool
	size  int32
	first int32 // the entry it begins with
	names int32 // bytes of all names of its entries
}

const (
	tapeEntries = 64       // of a block, at most
	tapeBytes   = 64 << 10 // of a block, unless its last entry takes more
)

// What is there of an entry on the tape, beside its type in the lowest bits.
const (
	tapeType  = 1<<3 - 1
	tapeLink  = 1 << (iota + 2) // a link name
	tapeOwner                   // other owners than the entry before
	tapeMode                    // another mode
	tapeTime                    // another time
	tapeDev                     // device numbers
	tapePAX                     // PAX records
)

var errTape = errors.New("damaged record of entries")

func (t *tape) count() int { return t.n }

// add appends e, whose offset is a multiple of 512 and behind the entry before.
func (t *tape) add(e *Entry) error {
	p := t.prev
	flags := uint64(e.Type)
	set := func(bit uint64, on bool) {
		if on {
			flags |= bit
		}
	}
	set(tapeLink, e.Linkname != "")
	set(tapeOwner, e.UID != p.UID || e.GID != p.GID || e.Uname != p.Uname || e.Gname != p.Gname)
	set(tapeMode, e.Mode != p.Mode)
	set(tapeTime, t.open == 0 || !e.ModTime.Equal(p.ModTime))
	set(tapeDev, e.Devmajor != 0 || e.Devminor != 0)
	set(tapePAX, len(e.PAX) > 0)

	b := binary.AppendUvarint(t.buf, flags)
	shared := commonPrefix(p.Name, e.Name)
	b = binary.AppendUvarint(b, uint64(shared))
	b = appendString(b, e.Name[shared:])
	b = binary.AppendUvarint(b, uint64(e.Offset-t.end)/tarBlock)
	b = binary.AppendUvarint(b, uint64(e.Size))
	if flags&tapeLink != 0 {
		b = appendString(b, e.Linkname)
	}
	if flags&tapeOwner != 0 {
		b = binary.AppendUvarint(b, uint64(e.UID))
		b = binary.AppendUvarint(b, uint64(e.GID))
		b = appendString(appendString(b, e.Uname), e.Gname)
	}
	if flags&tapeMode != 0 {
		b = binary.AppendVarint(b, e.Mode)
	}
	if flags&tapeTime != 0 {
		b = binary.AppendVarint(b, e.ModTime.Unix())
		b = binary.AppendUvarint(b, uint64(e.ModTime.Nanosecond()))
	}
	if flags&tapeDev != 0 {
		b = binary.AppendVarint(binary.AppendVarint(b, e.Devmajor), e.Devminor)
	}
	if flags&tapePAX != 0 {
		b = binary.AppendUvarint(b, uint64(len(e.PAX)))
		for i := range e.PAX {
			b = appendString(appendString(b, e.PAX[i].Key), e.PAX[i].Value)
		}
	}
	t.buf = b
	t.open++
	t.names += len(e.Name)
	t.end = align(e.Offset + e.Size)
	t.prev = *e
	t.prev.PAX = nil
	if t.n++; t.open == tapeEntries || len(t.buf) >= tapeBytes {
		return t.cut()
	}
	return nil
}

// cut ends the open block.
func (t *tape) cut() error {
	if t.open == 0 {
		return nil
	}
	t.blocks = append(t.blocks, tapeBlock{t.spool.size(), int32(len(t.buf)), int32(t.n - t.open), int32(t.names)})
	err := t.spool.append(t.buf)
	t.buf, t.open, t.names, t.prev, t.end = t.buf[:0], 0, 0, Entry{}, 0
	return err
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// commonPrefix is the length of what a and b both begin with.
func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// ascend is of entrySeq.
func (t *tape) ascend(f func(i int, e *Entry) error) error {
	return t.read(&tapeReader{}, f)
}

// read reads the entries with r.
func (t *tape) read(r *tapeReader, f func(i int, e *Entry) error) error {
	for i := range t.blocks {
		if err := r.read(t, i); err != nil {
			return err
		}
		for j := range r.entries {
			if err := f(int(t.blocks[i].first)+j, &r.entries[j]); err != nil {
				return err
			}
		}
	}
	return nil
}

// errStop ends an iteration.
var errStop = errors.New("stop")

// all returns the entries with their indexes. Their strings may be kept if r keeps them.
// Should the spool fail the sequence ends early, with *err set.
func (t *tape) all(r tapeReader, err *error) iter.Seq2[int, Entry] {
	return func(yield func(int, Entry) bool) {
		*err = t.read(&r, func(i int, e *Entry) error {
			if !yield(i, *e) {
				return errStop
			}
			return nil
		})
		if *err == errStop {
			*err = nil
		}
	}
}

// descend is of entrySeq.
func (t *tape) descend(f func(i int, e *Entry) error) error {
	var r tapeReader
	for i := range slices.Backward(t.blocks) {
		if err := r.read(t, i); err != nil {
			return err
		}
		for j := range slices.Backward(r.entries) {
			if err := f(int(t.blocks[i].first)+j, &r.entries[j]); err != nil {
				return err
			}
		}
	}
	return nil
}

// tapeReader reads blocks of a tape. Of what it returns nothing but numbers is valid
// when it reads the next block, unless it keeps strings.
type tapeReader struct {
	keep bool // the strings of each block in memory of their own, and PAX records

	buf     []byte
	names   []byte // of the block's entries
	records []Record
	entries []Entry
	rest    string // of the block
	bad     bool
}

// read reads block i of t, which has been cut, to entries.
func (r *tapeReader) read(t *tape, i int) error {
	b := t.blocks[i]
	n := t.n
	if i+1 < len(t.blocks) {
		n = int(t.blocks[i+1].first)
	}
	if r.keep {
		r.buf, r.names, r.records = nil, nil, nil
	}
	// Two pieces of memory hold all strings of the block.
	r.buf = slices.Grow(r.buf[:0], int(b.size))[:b.size]
	r.names, r.records = slices.Grow(r.names[:0], int(b.names)), r.records[:0]
	if err := t.spool.read(r.buf, b.off); err != nil {
		return err
	}
	r.rest, r.bad = stringOf(r.buf), false
	r.entries = slices.Grow(r.entries[:0], n-int(b.first))[:n-int(b.first)]
	var prev Entry
	for j := range r.entries {
		r.entry(&r.entries[j], &prev)
		prev = r.entries[j]
	}
	if r.bad || r.rest != "" || len(r.names) != int(b.names) {
		return fmt.Errorf("read entries from %d on: %w", b.first, errTape)
	}
	return nil
}

// stringOf returns p as a string, which changes with p.
func stringOf(p []byte) string { return unsafe.String(unsafe.SliceData(p), len(p)) }

// entry reads the entry behind prev.
func (r *tapeReader) entry(e, prev *Entry) {
	flags := r.uvarint()
	*e = Entry{
		Type: EntryType(flags & tapeType), UID: prev.UID, GID: prev.GID, Uname: prev.Uname, Gname: prev.Gname,
		Mode: prev.Mode, ModTime: prev.ModTime,
	}
	shared := min(r.uvarint(), uint64(len(prev.Name)))
	start := len(r.names)
	r.names = append(append(r.names, prev.Name[:shared]...), r.string()...)
	e.Name = stringOf(r.names[start:])
	e.Offset = align(prev.Offset+prev.Size) + int64(r.uvarint())*tarBlock
	e.Size = int64(r.uvarint())
	if flags&tapeLink != 0 {
		e.Linkname = r.string()
	}
	if flags&tapeOwner != 0 {
		e.UID, e.GID = uint32(r.uvarint()), uint32(r.uvarint())
		e.Uname, e.Gname = r.string(), r.string()
	}
	if flags&tapeMode != 0 {
		e.Mode = r.varint()
	}
	if flags&tapeTime != 0 {
		e.ModTime = time.Unix(r.varint(), int64(r.uvarint())).UTC()
	}
	if flags&tapeDev != 0 {
		e.Devmajor, e.Devminor = r.varint(), r.varint()
	}
	if flags&tapePAX != 0 {
		n := r.uvarint()
		if n > uint64(len(r.rest)) {
			n, r.bad = 0, true
		}
		start := len(r.records)
		for range n {
			r.records = append(r.records, Record{r.string(), r.string()})
		}
		e.PAX = r.records[start:len(r.records):len(r.records)]
	}
}

// uvarint reads a number.
func (r *tapeReader) uvarint() uint64 {
	var v uint64
	for i := range min(len(r.rest), binary.MaxVarintLen64) {
		c := r.rest[i]
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			r.rest = r.rest[i+1:]
			return v
		}
	}
	r.bad, r.rest = true, ""
	return 0
}

// varint reads a signed number.
func (r *tapeReader) varint() int64 {
	v := r.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

// string reads a string.
func (r *tapeReader) string() string {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.bad, r.rest = true, ""
		return ""
	}
	s := r.rest[:n]
	r.rest = r.rest[n:]
	return s
}

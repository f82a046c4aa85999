// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"encoding/binary"
	"slices"
)

// flatWriter makes FlatBuffers from the back, with the layout that the builder of
// the FlatBuffers library for Go gives them: alignment, order and sharing of
// vtables are part of the format. Unlike the builder it holds only what has been
// made since the last take, so that a buffer of any size can pass through it, and
// it can begin anew at any place between two objects.
//
// A position in the buffer is counted from its end, as the builder counts.
type flatWriter struct {
	buf     []byte // what was made since the last take is at its end, from head on
	head    int
	base    uint32 // position of the end of buf
	align   int    // the widest alignment so far
	vtables []vtable

	start uint32              // of the open table
	slots [maxFlatSlots]int32 // positions of the fields of the open table; 0 for those left out
	n     int                 // number of slots
}

// maxFlatSlots is the number of fields of the largest table, FileMetadata.
const maxFlatSlots = 14

// vtable is a table form that has been written before.
type vtable struct {
	pos    uint32
	n      int // fields up to the last that is there
	fields [maxFlatSlots]uint16
}

// pos is the position of the last byte made.
func (w *flatWriter) pos() uint32 { return w.base + uint32(len(w.buf)-w.head) }

// take returns what was made since the last take, valid until anything more is made.
func (w *flatWriter) take() []byte {
	p := w.buf[w.head:]
	w.seek(w.pos())
	return p
}

// seek goes on at pos, the end of an object.
func (w *flatWriter) seek(pos uint32) { w.base, w.head = pos, len(w.buf) }

// room makes sure that n bytes fit in front of head.
func (w *flatWriter) room(n int) {
	if w.head >= n {
		return
	}
	used := len(w.buf) - w.head
	buf := make([]byte, max(2*len(w.buf), used+n, 4<<10))
	copy(buf[len(buf)-used:], w.buf[w.head:])
	w.buf, w.head = buf, len(buf)-used
}

// prep pads so that, behind more bytes, something of size bytes is aligned, and
// makes room for all of it.
func (w *flatWriter) prep(size, more int) {
	w.align = max(w.align, size)
	pad := -(int(w.pos()) + more) & (size - 1)
	w.room(pad + more + size)
	w.head -= pad
	clear(w.buf[w.head:][:pad])
}

func (w *flatWriter) place8(v uint8) {
	w.head--
	w.buf[w.head] = v
}

func (w *flatWriter) place16(v uint16) {
	w.head -= 2
	binary.LittleEndian.PutUint16(w.buf[w.head:], v)
}

func (w *flatWriter) place32(v uint32) {
	w.head -= 4
	binary.LittleEndian.PutUint32(w.buf[w.head:], v)
}

func (w *flatWriter) place64(v uint64) {
	w.head -= 8
	binary.LittleEndian.PutUint64(w.buf[w.head:], v)
}

// ref makes an offset to the object at pos.
func (w *flatWriter) ref(pos uint32) {
	w.prep(4, 0)
	w.place32(w.pos() + 4 - pos)
}

// text makes a string of n bytes, which the caller fills in; it is at pos.
func (w *flatWriter) text(n int) []byte {
	w.prep(4, n+1)
	w.place8(0)
	w.head -= n
	p := w.buf[w.head:][:n]
	w.place32(uint32(n))
	return p
}

// str makes a string and returns its position.
func (w *flatWriter) str(s string) uint32 {
	copy(w.text(len(s)), s)
	return w.pos()
}

// bytes makes the string p and returns its position.
func (w *flatWriter) bytes(p []byte) uint32 {
	copy(w.text(len(p)), p)
	return w.pos()
}

// refs makes a vector of offsets and returns its position.
func (w *flatWriter) refs(at []uint32) uint32 {
	w.prep(4, 4*len(at))
	for _, pos := range slices.Backward(at) {
		w.ref(pos)
	}
	w.place32(uint32(len(at)))
	return w.pos()
}

// table begins a table of n fields.
func (w *flatWriter) table(n int) {
	w.start, w.n = w.pos(), n
	clear(w.slots[:n])
}

// slot says that the field of the open table was just made.
func (w *flatWriter) slot(field int) { w.slots[field] = int32(w.pos()) }

func (w *flatWriter) refField(field int, pos uint32) {
	w.ref(pos)
	w.slot(field)
}

func (w *flatWriter) int64Field(field int, v int64) {
	if v == 0 {
		return
	}
	w.prep(8, 0)
	w.place64(uint64(v))
	w.slot(field)
}

func (w *flatWriter) uint32Field(field int, v uint32) {
	if v == 0 {
		return
	}
	w.prep(4, 0)
	w.place32(v)
	w.slot(field)
}

func (w *flatWriter) int8Field(field int, v, def int8) {
	if v == def {
		return
	}
	w.prep(1, 0)
	w.place8(uint8(v))
	w.slot(field)
}

// endTable ends the open table and returns its position. A table of a form that
// there was before shares its vtable.
func (w *flatWriter) endTable() uint32 {
	w.prep(4, 0)
	w.place32(0) // the offset of the vtable, below
	pos := w.pos()
	n := w.n
	for n > 0 && w.slots[n-1] == 0 {
		n--
	}
	v := vtable{n: n}
	for i := range n {
		if w.slots[i] != 0 {
			v.fields[i] = uint16(pos - uint32(w.slots[i]))
		}
	}
	for i := range slices.Backward(w.vtables) {
		if o := &w.vtables[i]; o.n == n && o.fields == v.fields {
			binary.LittleEndian.PutUint32(w.buf[w.head:], o.pos-pos)
			return pos
		}
	}
	const head = 2 // fields of the vtable before those of the table: its own size and the table's
	w.prep(2, (n+head-1)*2)
	for _, f := range slices.Backward(v.fields[:n]) {
		w.place16(f)
	}
	w.place16(uint16(pos - w.start))
	w.place16(uint16(n+head) * 2)
	v.pos = w.pos()
	binary.LittleEndian.PutUint32(w.buf[w.head+int(v.pos-pos):], v.pos-pos)
	w.vtables = append(w.vtables, v)
	return pos
}

// finish makes the buffer's head, for root.
func (w *flatWriter) finish(root uint32) {
	w.prep(w.align, 4)
	w.ref(root)
}

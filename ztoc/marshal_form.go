// SPDX-License-Identifier: Apache-2.0

package ztoc

import "time"

// entryForms knows how long entries get without making them: their strings take what
// their lengths say, and the table behind them what one of the same form took before.
type entryForms struct {
	sizes   [1 << formBits]uint32 // of tables, by form; 0: there was none of the form yet
	records bool                  // there was an entry with PAX records: its vtable is there
}

// formBits is how many bits of a form there are: a field that may be left out each, and
// whether the table begins aligned for the widest.
const formBits = 8

// form returns the form of the table of e that begins at pos.
func form(e *Entry, pos uint32) (f uint8) {
	for i, there := range [formBits]bool{
		e.Offset != 0, e.Size != 0, e.Mode != 0, e.UID != 0, e.GID != 0, e.Devmajor != 0, e.Devminor != 0, pos&4 != 0,
	} {
		if there {
			f |= 1 << i
		}
	}
	return f
}

// end returns the position of the table of e, if what comes before ends at pos. It is
// unknown if a vtable may have to be made.
func (f *entryForms) end(e *Entry, pos uint32) (uint32, bool) {
	if len(e.PAX) > 0 && !f.records {
		return 0, false
	}
	pos = stringsEnd(e, pos)
	n := f.sizes[form(e, pos)]
	return pos + n, n != 0
}

// learn takes note of the table of e, made behind what ended at pos.
func (f *entryForms) learn(e *Entry, pos, table uint32) {
	if len(e.PAX) > 0 && !f.records {
		f.records = true // the strings have a vtable between them
		return
	}
	pos = stringsEnd(e, pos)
	f.sizes[form(e, pos)] = table - pos
}

// stringsEnd returns the position of what of e comes before its table: strings, records
// and their vector, behind what ends at pos.
func stringsEnd(e *Entry, pos uint32) uint32 {
	const record = 3 * 4 // a table of two offsets
	for _, n := range [...]int{len(e.Name), len(e.Type.String()), len(e.Linkname), len(e.Uname), len(e.Gname), timeLen(e.ModTime)} {
		pos = textEnd(pos, n)
	}
	for i := range e.PAX {
		pos = textEnd(textEnd(pos, len(e.PAX[i].Key)), len(e.PAX[i].Value)) + record
	}
	return pos + 4*uint32(len(e.PAX)) + 4
}

// textEnd returns the position of a string of n bytes behind what ends at pos, as text makes it.
func textEnd(pos uint32, n int) uint32 {
	const nul, align, length = 1, 4, 4
	return (pos+uint32(n)+nul+align-1)&^(align-1) + length
}

// timeLen returns the length of the wire form of t.
func timeLen(t time.Time) int {
	if s := t.Unix(); t.Location() == time.UTC && t.Nanosecond() == 0 && s >= 0 && s < noTime {
		return len("2006-01-02T15:04:05Z")
	}
	var buf [maxTime]byte
	return len(appendTime(buf[:0], t))
}

// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// maxNodes bounds the nodes of a table: names of entries, and of directories that
// have none.
const maxNodes = 2 * MaxEntries

// maxRecords bounds the PAX records of an entry; more do not fit in a PAX header that
// archive/tar reads.
const maxRecords = 1 << 18

// How the raw name of an entry follows from its path.
const (
	styleDot      = 1 << iota // "./" before it
	styleRoot                 // "/" before it
	styleSlash                // "/" behind it
	styleVerbatim             // not at all: it is among the entry's strings
)

// What the value of a PAX record is.
const (
	paxVerbatim = iota // among the entry's strings
	paxName            // the entry's name
	paxLinkname        // the entry's link name
	paxTime            // one of three times, in one of two forms: kind = paxTime + 2*time + form
	paxKinds    = paxTime + 6
)

// The times of PAX records; the forms are decimals with 9 digits behind the point,
// and with as many as it needs.
const (
	timeMod = iota
	timeAccess
	timeChange

	formFull  = 0
	formShort = 1
)

// tableWriter collects the entries of a layer for the table of a compact zTOC.
type tableWriter struct {
	n       int
	size    int64 // by wireSize
	end     int64 // of the last entry's data, in blocks
	names   *nameTree
	outside map[uint32]string // names without a node, by rank
	classes map[string]uint32
	class   []byte // records of classes, one behind the other
	classAt ints
	extras  []byte // strings of entries

	classOf, sizes, gaps, offsetAt ints
	sec, nsec, access, change      ints
	extraLen, extraAt              ints
	record                         []byte
}

// newTableWriter returns a writer of about so many entries: what is made as large as it
// will be is not made twice.
func newTableWriter(count int) *tableWriter {
	t := &tableWriter{names: newNameTree(count), outside: map[uint32]string{}, classes: map[string]uint32{}}
	for _, s := range [...]*ints{&t.classOf, &t.sizes, &t.gaps, &t.sec, &t.nsec, &t.access, &t.change, &t.extraLen} {
		s.want = count
	}
	return t
}

// add enters the next entry of the tar.
func (t *tableWriter) add(e *Entry) error {
	if err := e.check(); err != nil {
		return err
	}
	if t.size += e.wireSize(); t.n >= MaxEntries || t.size > MaxTOCSize {
		return fmt.Errorf("%w: more than %d entries or %d bytes of names", ErrLimit, MaxEntries, MaxTOCSize)
	}
	if len(e.PAX) > maxRecords {
		return fmt.Errorf("%d PAX records: %w: %d", len(e.PAX), ErrLimit, maxRecords)
	}
	gap := e.Offset/tarBlock - t.end - 1
	if e.Offset%tarBlock != 0 || gap < 0 || e.Size > math.MaxInt64-e.Offset-tarBlock {
		return badf("entry", "%d bytes at %d, behind %d", e.Size, e.Offset, t.end*tarBlock)
	}
	if t.n%blockLen == 0 {
		t.offsetAt.add(t.end)
		t.extraAt.add(int64(len(t.extras)))
	}
	t.end = align(e.Offset+e.Size) / tarBlock
	rank := uint32(t.n)
	old, ok, err := t.names.add(e.Name, rank)
	if err != nil {
		return err
	}
	if !ok {
		t.outside[rank] = strings.Clone(e.Name)
	}
	if old != noRank {
		t.outside[old] = t.rawName(old, e.Name)
	}
	before := len(t.extras)
	style := styleOf(e.Name)
	if !ok {
		style = 0 // it is nowhere looked at
	}
	access, change := t.addClass(e, style)
	t.sizes.add(e.Size)
	t.gaps.add(gap)
	t.sec.add(e.ModTime.Unix())
	t.nsec.add(int64(e.ModTime.Nanosecond()))
	t.access.add(access)
	t.change.add(change)
	t.extraLen.add(int64(len(t.extras) - before))
	t.n++
	return nil
}

// addClass enters the class and the strings of an entry, and returns the times of its
// PAX records, in nanoseconds.
func (t *tableWriter) addClass(e *Entry, style uint8) (access, change int64) {
	r := append(t.record[:0], byte(e.Type), style)
	r = binary.AppendUvarint(r, zigzag(e.Mode))
	r = binary.AppendUvarint(r, uint64(e.UID))
	r = binary.AppendUvarint(r, uint64(e.GID))
	r = binary.AppendUvarint(r, zigzag(e.Devmajor))
	r = binary.AppendUvarint(r, zigzag(e.Devminor))
	r = appendString(r, e.Uname)
	r = appendString(r, e.Gname)
	link := byte(0)
	if e.Linkname != "" {
		link = 1
	}
	r = append(r, link)
	r = binary.AppendUvarint(r, uint64(len(e.PAX)))
	if style == styleVerbatim {
		t.extras = appendString(t.extras, e.Name)
	}
	if link != 0 {
		t.extras = appendString(t.extras, e.Linkname)
	}
	for i := range e.PAX {
		kind, ns := paxKind(e, &e.PAX[i])
		switch kind {
		case paxVerbatim:
			t.extras = appendString(t.extras, e.PAX[i].Value)
		case paxTime + 2*timeAccess, paxTime + 2*timeAccess + formShort:
			access = ns
		case paxTime + 2*timeChange, paxTime + 2*timeChange + formShort:
			change = ns
		}
		r = append(appendString(r, e.PAX[i].Key), kind)
	}
	t.record = r
	id, ok := t.classes[string(r)]
	if !ok {
		id = uint32(len(t.classes))
		t.classes[string(r)] = id
		t.classAt.add(int64(len(t.class)))
		t.class = append(t.class, r...)
	}
	t.classOf.add(int64(id))
	return access, change
}

// styleOf returns how name follows from its cleaned path.
func styleOf(name string) uint8 {
	path, style := name, uint8(0)
	switch {
	case strings.HasPrefix(path, "./"):
		path, style = path[2:], styleDot
	case strings.HasPrefix(path, "/"):
		path, style = path[1:], styleRoot
	}
	if strings.HasSuffix(path, "/") {
		path, style = path[:len(path)-1], style|styleSlash
	}
	if path == "" || isClean(path) {
		return style
	}
	return styleVerbatim
}

// isClean reports whether all components of path mean something.
func isClean(path string) bool {
	for {
		c, rest, more := strings.Cut(path, "/")
		if c == "" || c == "." || c == ".." {
			return false
		}
		if !more {
			return true
		}
		path = rest
	}
}

// appendName appends the raw name of an entry, whose style is not verbatim.
func appendName[P []byte | string](p []byte, style uint8, path P) []byte {
	switch {
	case style&styleDot != 0:
		p = append(p, "./"...)
	case style&styleRoot != 0:
		p = append(p, '/')
	}
	p = append(p, path...)
	if style&styleSlash != 0 {
		p = append(p, '/')
	}
	return p
}

// rawName returns the name of the entry of a rank; same is one of the same path.
func (t *tableWriter) rawName(rank uint32, same string) string {
	style := t.class[t.classAt.at(int(t.classOf.at(int(rank))))+1]
	if style != styleVerbatim {
		return string(appendName(nil, style, cleanPath(same)))
	}
	at := t.extraAt.at(int(rank / blockLen))
	for i := rank &^ (blockLen - 1); i < rank; i++ {
		at += t.extraLen.at(int(i))
	}
	n, w := binary.Uvarint(t.extras[at:])
	return string(t.extras[at+int64(w):][:n])
}

// cleanPath returns the components of name that mean something.
func cleanPath(name string) string {
	if isClean(name) {
		return name
	}
	var p []byte
	for c, rest := nextComponent(name); c != ""; c, rest = nextComponent(rest) {
		if p != nil {
			p = append(p, '/')
		}
		p = append(p, c...)
	}
	return string(p)
}

// paxKind returns what the value of an entry's record is, and the time if it is one
// of the two that an Entry has not.
func paxKind(e *Entry, r *Record) (kind byte, ns int64) {
	var text [32]byte
	switch r.Key {
	case "path":
		if r.Value == e.Name {
			return paxName, 0
		}
	case "linkpath":
		if r.Value == e.Linkname {
			return paxLinkname, 0
		}
	case "mtime":
		for form := range byte(2) {
			if t, ok := appendPAXTime(text[:0], e.ModTime.Unix(), int64(e.ModTime.Nanosecond()), form); ok && string(t) == r.Value {
				return paxTime + 2*timeMod + form, 0
			}
		}
	case "atime", "ctime":
		which := byte(timeAccess)
		if r.Key == "ctime" {
			which = timeChange
		}
		ns := parsePAXTime(r.Value)
		for form := range byte(2) {
			if t, ok := appendPAXTime(text[:0], ns/nanos, ns%nanos, form); ok && string(t) == r.Value {
				return paxTime + 2*which + form, ns
			}
		}
	}
	return paxVerbatim, 0
}

const (
	nanos      = 1e9
	maxPAXTime = 9e9 // seconds; more would not fit in 63 bits as nanoseconds
)

// parsePAXTime returns the nanoseconds of text, or anything if it is no time that
// appendPAXTime returns.
func parsePAXTime(text string) int64 {
	sec, frac, _ := strings.Cut(text, ".")
	if len(sec) > 10 || len(frac) > 9 {
		return 0
	}
	s, _ := strconv.ParseUint(sec, 10, 63)
	f, _ := strconv.ParseUint(frac, 10, 63)
	for range 9 - len(frac) {
		f *= 10
	}
	return int64(s*nanos + f)
}

// appendPAXTime appends a time in one of the forms of a PAX record.
func appendPAXTime(p []byte, sec, nsec int64, form byte) ([]byte, bool) {
	if sec < 0 || sec >= maxPAXTime || nsec < 0 || nsec >= nanos {
		return p, false
	}
	p = strconv.AppendInt(p, sec, 10)
	if form == formShort && nsec == 0 {
		return p, true
	}
	p = append(p, '.')
	for unit := int64(nanos / 10); unit > 0 && (form == formFull || nsec > 0); unit /= 10 {
		p = append(p, byte('0'+nsec/unit))
		nsec %= unit
	}
	return p, true
}

// write appends the sections of the table. It takes what the writer has collected.
func (t *tableWriter) write(w *sectionWriter) {
	t.names.write(w)
	var outside []byte
	for _, rank := range slices.Sorted(maps.Keys(t.outside)) {
		outside = appendString(outside, t.outside[rank])
	}
	w.text(outside)
	w.plain(&t.classOf)
	w.plain(&t.sizes)
	w.plain(&t.gaps)
	w.plain(&t.offsetAt)
	w.best(&t.sec)
	w.best(&t.nsec)
	w.best(&t.access)
	w.best(&t.change)
	w.plain(&t.extraLen)
	w.plain(&t.extraAt)
	w.text(t.extras)
	w.text(t.class)
	w.plain(&t.classAt)
}

// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"math"
	"time"
)

// placer tells where entries have their data and their strings, one after another.
type placer struct {
	t    *table
	rank int   // of the entry
	off  int64 // of its data
	size int64
	x    strs // its strings

	end  int64 // of its data, in tar blocks
	text int64 // of its strings
}

// seek goes before the first entry of a block.
func (p *placer) seek(block int) bool {
	end, ok1 := p.t.offsetAt.at(block)
	text, ok2 := p.t.extraAt.at(block)
	p.rank, p.end, p.text = block*blockLen-1, end, text
	return ok1 && ok2
}

// next goes to the next entry.
func (p *placer) next() bool {
	t := p.t
	p.rank++
	gap, ok1 := t.gaps.at(p.rank)
	size, ok2 := t.sizes.at(p.rank)
	n, ok3 := t.extraLen.at(p.rank)
	if !ok1 || !ok2 || !ok3 || gap < 0 || gap > t.size || p.end < 0 || p.end > t.size {
		return false
	}
	p.off, p.size = (p.end+gap+1)*tarBlock, size // t.size is far from overflowing this
	if size < 0 || p.off > t.size || size > t.size-p.off {
		return false
	}
	p.end = align(p.off+size) / tarBlock
	if p.text < 0 || n < 0 || p.text > int64(len(t.extras)) || n > int64(len(t.extras))-p.text {
		return false
	}
	p.x = strs{p: t.extras[p.text : p.text+n]}
	p.text += n
	return true
}

// follow goes to the next entry, which at the start of a block must be where the
// block says.
func (p *placer) follow() bool {
	if rank := p.rank + 1; rank%blockLen == 0 {
		at := placer{t: p.t}
		if !at.seek(rank/blockLen) || at.end != p.end || at.text != p.text {
			return false
		}
	}
	return p.next()
}

// place finds the entry of a rank.
func (p *placer) place(rank int) bool {
	ok := p.seek(rank / blockLen)
	for ok && p.rank < rank {
		ok = p.next()
	}
	return ok
}

// classString returns the next string of a class.
func (t *table) classString(r *strs) string {
	n := len(r.bytes())
	end := len(t.classText) - len(r.p)
	return t.classText[end-n : end]
}

// entry sets e to the entry that at is at, called path. An entry without a node has
// its raw name in outside.
func (t *table) entry(e *Entry, at *placer, path []byte, outside *strs) bool {
	class, ok := t.classOf.at(at.rank)
	if !ok || class < 0 || class > math.MaxInt32 {
		return false
	}
	where, ok := t.classAt.at(int(class))
	if !ok || where < 0 || where > int64(len(t.classes)) {
		return false
	}
	r, x := strs{p: t.classes[where:]}, at.x
	*e = Entry{Type: EntryType(r.byte()), Offset: at.off, Size: at.size}
	style := r.byte()
	e.Mode = unzigzag(r.uvarint())
	uid, gid := r.uvarint(), r.uvarint()
	if uid > math.MaxUint32 || gid > math.MaxUint32 {
		return false
	}
	e.UID, e.GID = uint32(uid), uint32(gid)
	e.Devmajor, e.Devminor = unzigzag(r.uvarint()), unzigzag(r.uvarint())
	e.Uname, e.Gname = t.classString(&r), t.classString(&r)
	switch {
	case style == styleVerbatim:
		if e.Name = x.string(); outside == nil && cleanPath(e.Name) != string(path) {
			return false
		}
	case style > styleVerbatim || style&(styleDot|styleRoot) == styleDot|styleRoot:
		return false
	case outside == nil:
		var buf [nameBuffer]byte
		e.Name = string(appendName(buf[:0], style, path))
	}
	if outside != nil {
		e.Name = outside.string()
	}
	switch r.byte() {
	case 0:
	case 1:
		e.Linkname = x.string()
	default:
		return false
	}
	sec, ok1 := t.sec.at(at.rank)
	nsec, ok2 := t.nsec.at(at.rank)
	if !ok1 || !ok2 || nsec < 0 || nsec >= nanos {
		return false
	}
	e.ModTime = time.Unix(sec, nsec).UTC()
	if n := r.uvarint(); n > 0 && !t.records(e, at.rank, n, &r, &x) {
		return false
	}
	return !r.bad && !x.bad && (outside == nil || !outside.bad) && len(x.p) == 0 && e.check() == nil
}

// nameBuffer is the room for most names; more is allocated.
const nameBuffer = 256

// records sets the n PAX records of an entry.
func (t *table) records(e *Entry, rank int, n uint64, class, x *strs) bool {
	if n > maxRecords || n > uint64(len(class.p)) {
		return false
	}
	e.PAX = make([]Record, n)
	var text [32]byte
	for i := range e.PAX {
		p := &e.PAX[i]
		p.Key = t.classString(class)
		switch kind := class.byte(); kind {
		case paxVerbatim:
			p.Value = x.string()
		case paxName:
			p.Value = e.Name
		case paxLinkname:
			p.Value = e.Linkname
		default:
			if kind >= paxKinds {
				return false
			}
			sec, nsec := e.ModTime.Unix(), int64(e.ModTime.Nanosecond())
			if which := (kind - paxTime) / 2; which != timeMod {
				c := &t.access
				if which == timeChange {
					c = &t.change
				}
				ns, ok := c.at(rank)
				if !ok || ns < 0 {
					return false
				}
				sec, nsec = ns/nanos, ns%nanos
			}
			v, ok := appendPAXTime(text[:0], sec, nsec, (kind-paxTime)%2)
			if !ok {
				return false
			}
			p.Value = string(v)
		}
	}
	return true
}

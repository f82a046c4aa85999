// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"encoding/binary"
	"math"
	"sort"
	"time"
)

// table is the file table of a compact zTOC, used in place. Nothing in it has been
// validated but that the columns have all of their elements.
type table struct {
	size    int64 // uncompressed bytes of the layer
	entries int
	nodes   int

	// by node
	text                        []byte
	shared, suffix, kids, ranks column
	textAt, firsts              column // by block of nodes

	// by entry
	outside                   []byte
	classOf, sizes, gaps      column
	sec, nsec, access, change column
	extraLen                  column
	offsetAt, extraAt         column // by block of entries
	extras, classes           []byte
	classAt                   column // by class
}

// read has the sections of the table unpacked to t.
func (t *table) read(r *sectionReader, classes int) {
	n, m := t.entries, t.nodes
	r.text(&t.text, r.left)
	r.plain(&t.shared, m)
	r.plain(&t.suffix, m)
	r.plain(&t.kids, m)
	r.running(&t.ranks, m)
	r.plain(&t.textAt, blocks(m))
	r.plain(&t.firsts, blocks(m))
	r.text(&t.outside, r.left)
	r.plain(&t.classOf, n)
	r.plain(&t.sizes, n)
	r.plain(&t.gaps, n)
	r.plain(&t.offsetAt, blocks(n))
	r.best(&t.sec, n)
	r.best(&t.nsec, n)
	r.best(&t.access, n)
	r.best(&t.change, n)
	r.plain(&t.extraLen, n)
	r.plain(&t.extraAt, blocks(n))
	r.text(&t.extras, r.left)
	r.text(&t.classes, r.left)
	r.plain(&t.classAt, classes)
}

// children returns the half-open range of a node's children.
func (t *table) children(node int) (first, end int, ok bool) {
	f, ok := t.firsts.at(node / blockLen)
	if !ok {
		return 0, 0, false
	}
	for i := node &^ (blockLen - 1); i < node; i++ {
		f += t.kidsOf(i)
	}
	e := f + t.kidsOf(node)
	// Children come behind their parent, so that no walk goes round in circles.
	if f <= int64(node) || e < f || e > int64(t.nodes) {
		return 0, 0, false
	}
	return int(f), int(e), true
}

// kidsOf returns the number of a node's children, or one that is too large.
func (t *table) kidsOf(node int) int64 {
	k, _ := t.kids.at(node)
	if k < 0 || k > int64(t.nodes) {
		k = int64(t.nodes)
	}
	return k
}

// parent returns the parent of a node but the root.
func (t *table) parent(node int) (int, bool) {
	b := sort.Search(t.firsts.n, func(b int) bool {
		f, _ := t.firsts.at(b)
		return f > int64(node)
	}) - 1
	if b < 0 {
		return 0, false
	}
	f, _ := t.firsts.at(b)
	for i := b * blockLen; i < min((b+1)*blockLen, t.nodes); i++ {
		if f += t.kidsOf(i); f > int64(node) {
			return i, i < node
		}
	}
	return 0, false
}

// nameCursor walks over the names of a block of nodes, or of more.
type nameCursor struct {
	t    *table
	node int    // of the name
	text int64  // place behind the name
	name []byte // last component
}

// nameBuffer is the room for most names; more is allocated.
const nameBuffer = 256

// seek goes to a node, at which names begin anew: the first of a block, or of a
// directory's children.
func (c *nameCursor) seek(node int) bool {
	at, ok := c.t.textOf(node)
	c.node, c.text, c.name = node-1, at, c.name[:0]
	return ok && c.next()
}

// textOf returns where in the text the record of a node's name begins.
func (t *table) textOf(node int) (int64, bool) {
	at, ok := t.textAt.at(node / blockLen)
	for i := node &^ (blockLen - 1); i < node && ok; i++ {
		at, _, ok = t.suffixOf(i, at)
	}
	return at, ok
}

// suffixOf returns where in the text the own part of a node's name is, given where its record begins.
func (t *table) suffixOf(node int, at int64) (end int64, part []byte, ok bool) {
	k, ok := t.suffix.at(node)
	if !ok || at < 0 || at > int64(len(t.text)) {
		return 0, nil, false
	}
	if k == math.MaxUint8 {
		more, w := binary.Uvarint(t.text[at:])
		if w <= 0 || more > MaxName {
			return 0, nil, false
		}
		k += int64(more)
		at += int64(w)
	}
	if k < 0 || k > int64(len(t.text))-at {
		return 0, nil, false
	}
	return at + k, t.text[at : at+k], true
}

// next goes to the next name.
func (c *nameCursor) next() bool {
	node := c.node + 1
	end, part, ok := c.t.suffixOf(node, c.text)
	if !ok {
		return false
	}
	same, _ := c.t.shared.at(node)
	if same < 0 || same > int64(len(c.name)) {
		return false
	}
	c.node, c.text = node, end
	c.name = append(c.name[:same], part...)
	return true
}

// find returns the node called name among those in [first, end).
func (t *table) find(first, end int, name string) (int, bool) {
	// The first names of blocks are whole: the last of them that is not greater tells the block.
	lo, hi := first/blockLen+1, (end-1)/blockLen+1 // blocks that begin among the children
	k := sort.Search(max(0, hi-lo), func(i int) bool {
		at, _ := t.textAt.at(lo + i)
		_, part, ok := t.suffixOf((lo+i)*blockLen, at)
		return !ok || string(part) > name
	})
	start := first
	if k > 0 {
		start = (lo + k - 1) * blockLen
	}
	at, ok := t.textOf(start)
	for same := 0; ok && start < end; start++ {
		var part []byte
		if at, part, ok = t.suffixOf(start, at); !ok {
			break
		}
		again, _ := t.shared.at(start)
		if again < 0 || again > int64(same) {
			continue // differs from name where the one before did
		}
		same = int(again)
		rest := name[same:]
		k := 0
		for k < min(len(part), len(rest)) && part[k] == rest[k] {
			k++
		}
		same += k
		switch {
		case k == len(part) && k == len(rest):
			return start, true
		case k == len(rest) || k < len(part) && part[k] > rest[k]:
			return 0, false
		}
	}
	return 0, false
}

// lookup returns the node of a path.
func (t *table) lookup(path string) (int, bool) {
	if upwards(path) {
		return 0, false
	}
	node := 0
	for name, rest := nextComponent(path); name != ""; name, rest = nextComponent(rest) {
		first, end, ok := t.children(node)
		if !ok {
			return 0, false
		}
		if node, ok = t.find(first, end, name); !ok {
			return 0, false
		}
	}
	return node, true
}

// nameOf returns the last component of a node, in c.
func (c *nameCursor) nameOf(node int) ([]byte, bool) {
	if c.name != nil && c.node <= node && c.node/blockLen == node/blockLen {
		// behind where the cursor is
	} else if !c.seek(node &^ (blockLen - 1)) {
		return nil, false
	}
	for c.node < node {
		if !c.next() {
			return nil, false
		}
	}
	return c.name, true
}

// path returns the path of a node.
func (t *table) path(c *nameCursor, node int) (string, bool) {
	var (
		parts []byte // backwards: components in order from the last
		spans []int
	)
	for node != 0 {
		name, ok := c.nameOf(node)
		if !ok {
			return "", false
		}
		parts = append(parts, name...)
		spans = append(spans, len(name))
		if len(parts)+len(spans) > MaxName+1 {
			return "", false
		}
		if node, ok = t.parent(node); !ok {
			return "", false
		}
	}
	p := make([]byte, 0, len(parts)+len(spans))
	end := len(parts)
	for i := len(spans) - 1; i >= 0; i-- {
		p = append(p, parts[end-spans[i]:end]...)
		end -= spans[i]
		if i > 0 {
			p = append(p, '/')
		}
	}
	return string(p), true
}

// rank returns the place in the tar of a node's entry.
func (t *table) rank(node int) (int, bool) {
	r, ok := t.ranks.at(node)
	return int(r - 1), ok && r > 0 && r <= int64(t.entries)
}

// offset returns where the data of the entry of a rank begin, and their length.
func (t *table) offset(rank int) (off, size int64, ok bool) {
	end, ok := t.offsetAt.at(rank / blockLen)
	for i := rank &^ (blockLen - 1); ok; i++ {
		gap, _ := t.gaps.at(i)
		if size, ok = t.sizes.at(i); !ok || gap < 0 || gap > t.size || end < 0 || end > t.size {
			return 0, 0, false
		}
		off = (end + gap + 1) * tarBlock
		if size < 0 || off > t.size || size > t.size-off {
			return 0, 0, false
		}
		if i == rank {
			return off, size, true
		}
		end = align(off+size) / tarBlock
	}
	return 0, 0, false
}

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

// extrasOf returns the strings of the entry of a rank.
func (t *table) extrasOf(rank int) strs {
	n, _ := t.extraLen.at(rank)
	if n == 0 {
		return strs{}
	}
	at, ok := t.extraAt.at(rank / blockLen)
	for i := rank &^ (blockLen - 1); i < rank && ok; i++ {
		k, _ := t.extraLen.at(i)
		ok = k >= 0 && k <= int64(len(t.extras))
		at += k
	}
	if !ok || at < 0 || n < 0 || at > int64(len(t.extras)) || n > int64(len(t.extras))-at {
		return strs{bad: true}
	}
	return strs{p: t.extras[at : at+n]}
}

// entry sets e to the entry of a rank, called path. An entry without a node has its
// raw name in outside.
func (t *table) entry(e *Entry, rank int, path string, outside *strs) bool {
	class, ok := t.classOf.at(rank)
	if !ok || class < 0 || class > math.MaxInt32 {
		return false
	}
	at, ok := t.classAt.at(int(class))
	if !ok || at < 0 || at > int64(len(t.classes)) {
		return false
	}
	r := strs{p: t.classes[at:]}
	x := t.extrasOf(rank)
	*e = Entry{Type: EntryType(r.byte())}
	style := r.byte()
	e.Mode = unzigzag(r.uvarint())
	uid, gid := r.uvarint(), r.uvarint()
	if uid > math.MaxUint32 || gid > math.MaxUint32 {
		return false
	}
	e.UID, e.GID = uint32(uid), uint32(gid)
	e.Devmajor, e.Devminor = unzigzag(r.uvarint()), unzigzag(r.uvarint())
	e.Uname, e.Gname = r.string(), r.string()
	if style == styleVerbatim {
		e.Name = x.string()
	} else if outside == nil {
		e.Name = rawName(style, path)
	}
	if outside != nil {
		e.Name = outside.string()
	}
	if r.byte() != 0 {
		e.Linkname = x.string()
	}
	sec, ok1 := t.sec.at(rank)
	nsec, ok2 := t.nsec.at(rank)
	if !ok1 || !ok2 || nsec < 0 || nsec >= nanos {
		return false
	}
	e.ModTime = time.Unix(sec, nsec).UTC()
	if e.Offset, e.Size, ok = t.offset(rank); !ok {
		return false
	}
	if n := r.uvarint(); n > 0 && !t.records(e, rank, n, &r, &x) {
		return false
	}
	return !r.bad && !x.bad && (outside == nil || !outside.bad) && len(x.p) == 0 && e.check() == nil
}

// rawName returns the raw name of the entry of a path.
func rawName(style uint8, path string) string {
	if style == 0 {
		return path
	}
	var buf [nameBuffer]byte
	return string(appendName(buf[:0], style, path))
}

// records sets the n PAX records of an entry.
func (t *table) records(e *Entry, rank int, n uint64, class, x *strs) bool {
	if n > uint64(len(class.p)) {
		return false
	}
	e.PAX = make([]Record, n)
	var text [32]byte
	for i := range e.PAX {
		p := &e.PAX[i]
		p.Key = class.string()
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

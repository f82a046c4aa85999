// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bytes"
	"encoding/binary"
	"math"
	"sort"
)

// children returns the half-open range of a node's children.
func (t *table) children(node int) (first, end int, ok bool) {
	f, ok := t.firsts.at(node / blockLen)
	f += t.kids.sum(node&^(blockLen-1), node)
	e := f + t.kids.sum(node, node+1)
	// Children come behind their parent, so that no walk goes round in circles.
	if !ok || f <= int64(node) || e < f || e > int64(t.nodes) {
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

// textOf returns where in the text the record of a node's name begins.
func (t *table) textOf(node int) (int64, bool) {
	at, ok := t.textAt.at(node / blockLen)
	first := node &^ (blockLen - 1)
	if s := &t.suffix; s.width == 1 && s.base == 0 {
		if p := s.data[first:node]; bytes.IndexByte(p, longSuffix) < 0 {
			return at + sumBytes(p), ok
		}
	}
	for i := first; i < node && ok; i++ {
		at, _, ok = t.suffixOf(i, at)
	}
	return at, ok
}

// longSuffix says that the rest of the length of a name's own part is in the text.
const longSuffix = math.MaxUint8

// maxShared is the most bytes that a name shares with the one before: were it more,
// a few bytes of names could be many.
const maxShared = math.MaxUint8

// suffixOf returns the own part of a node's name, whose record begins at at in the
// text, and where it ends.
func (t *table) suffixOf(node int, at int64) (end int64, part []byte, ok bool) {
	k, ok := t.suffix.at(node)
	if !ok || at < 0 || at > int64(len(t.text)) {
		return 0, nil, false
	}
	if k == longSuffix {
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

// sharedOf returns how many bytes a node's name shares with the one before.
func (t *table) sharedOf(node int) (int, bool) {
	n, ok := t.shared.at(node)
	return int(n), ok && n >= 0 && n <= maxShared
}

// nameCursor walks over the names of siblings, which are the nodes from first on.
type nameCursor struct {
	t     *table
	first int
	node  int    // of the name
	text  int64  // place behind the name
	name  []byte // last component
}

// seek goes to a node at which names begin anew: the first of a block, or of the siblings.
func (c *nameCursor) seek(node int) bool {
	at, ok := c.t.textOf(node)
	c.node, c.text, c.name = node-1, at, c.name[:0]
	return ok && c.next()
}

// next goes to the next name.
func (c *nameCursor) next() bool {
	node := c.node + 1
	end, part, ok := c.t.suffixOf(node, c.text)
	same, known := c.t.sharedOf(node)
	if !ok || !known || same > len(c.name) || same+len(part) > MaxName {
		return false
	}
	c.node, c.text = node, end
	c.name = append(c.name[:same], part...)
	return true
}

// nameOf goes to the name of a node.
func (c *nameCursor) nameOf(node int) ([]byte, bool) {
	if c.node > node || c.node < node&^(blockLen-1) || c.node < c.first {
		if !c.seek(max(c.first, node&^(blockLen-1))) {
			return nil, false
		}
	}
	for c.node < node {
		if !c.next() {
			return nil, false
		}
	}
	return c.name, validComponent(c.name)
}

// validComponent reports whether a path can have name as a component that means something.
func validComponent(name []byte) bool {
	return len(name) > 0 && string(name) != "." && string(name) != ".." && bytes.IndexByte(name, '/') < 0
}

// find returns the node called name among those in [first, end), which are siblings.
func (t *table) find(first, end int, name string) (int, bool) {
	// The first names of blocks are whole: the last of them that is not greater tells
	// the block, and so does the one behind it.
	lo, hi := first/blockLen+1, (end-1)/blockLen+1 // blocks that begin among the siblings
	k := lo + sort.Search(max(0, hi-lo), func(i int) bool {
		at, _ := t.textAt.at(lo + i)
		_, part, ok := t.suffixOf((lo+i)*blockLen, at)
		return !ok || string(part) > name
	})
	node := max(first, (k-1)*blockLen)
	end = min(end, k*blockLen)
	at, ok := t.textOf(node)
	for same := 0; ok && node < end; node++ { // same: bytes of name that the one before begins with
		var part []byte
		if at, part, ok = t.suffixOf(node, at); !ok {
			break
		}
		again, known := t.sharedOf(node)
		if !known {
			break
		}
		if again > same {
			continue // differs from name where the one before did
		}
		same = again
		rest := name[same:]
		k := 0
		for k < min(len(part), len(rest)) && part[k] == rest[k] {
			k++
		}
		same += k
		switch {
		case k == len(part) && k == len(rest):
			return node, true
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

// rank returns the place in the tar of a node's entry.
func (t *table) rank(node int) (int, bool) {
	r, ok := t.ranks.at(node)
	return int(r - 1), ok && r > 0 && r <= int64(t.entries)
}

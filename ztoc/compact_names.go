// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"strings"
)

// noRank is the rank of a node without an entry.
const noRank = math.MaxUint32

// nameTree collects the names of a layer's entries as a tree. It needs some 40
// bytes a name and what the last components measure.
type nameTree struct {
	nodes []nameNode // the first is the root
	arena []byte     // last components, each behind its length
	table []uint32   // hash table of nodes, by parent and name; 0 is empty
	seed  maphash.Seed
	last  string // directory of the last name, and its node
	dir   uint32

	slabs struct { // what the tree began with
		nodes []nameNode
		table []uint32
		arena []byte
	}
}

// usualName is how many bytes a last component takes, or a few more.
const usualName = 20

// nameNode is a name that something is called, or that is in the way to it.
type nameNode struct {
	parent, name uint32 // name is its place in arena
	rank         uint32 // place in the tar of the last entry of this name, or noRank
	kids, next   uint32 // first child, and next sibling, in no order; 0 is none
}

// newNameTree returns a tree of about so many names.
func newNameTree(count int) *nameTree {
	count += count/16 + 64 // directories without an entry
	t := &nameTree{nodes: newSlab[nameNode](count)[:1], arena: newSlab[byte](count * usualName)[:0], seed: maphash.MakeSeed()}
	t.nodes[0].rank = noRank
	size := 1 << 10
	for size*3/4 < count {
		size *= 2
	}
	t.table = newSlab[uint32](size)
	t.slabs.nodes, t.slabs.table, t.slabs.arena = t.nodes, t.table, t.arena
	return t
}

// free gives the memory back that the tree was made with.
func (t *nameTree) free() {
	freeSlab(t.slabs.nodes)
	freeSlab(t.slabs.table)
	freeSlab(t.slabs.arena)
	*t = nameTree{}
}

// add enters the entry of a rank, called name. It reports false if the name leads
// upwards and so has no place in the tree. Of entries of the same name the last one
// keeps its place: old is the rank of the other, or noRank.
func (t *nameTree) add(name string, rank uint32) (old uint32, ok bool, err error) {
	old = noRank
	if upwards(name) {
		return old, false, nil
	}
	name = strings.TrimRight(name, "/")
	dir, base := "", name
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		dir, base = name[:i], name[i+1:]
	}
	if dir != t.last {
		t.dir = 0
		for c, rest := nextComponent(dir); c != ""; c, rest = nextComponent(rest) {
			if t.dir, err = t.child(t.dir, c); err != nil {
				return old, false, err
			}
		}
		t.last = strings.Clone(dir)
	}
	n := t.dir
	if base != "" && base != "." {
		if n, err = t.child(n, base); err != nil {
			return old, false, err
		}
	}
	old, t.nodes[n].rank = t.nodes[n].rank, rank
	return old, true, nil
}

// upwards reports whether a component of name is "..".
func upwards(name string) bool {
	for i := strings.Index(name, ".."); i >= 0; {
		if (i == 0 || name[i-1] == '/') && (i+2 == len(name) || name[i+2] == '/') {
			return true
		}
		k := strings.Index(name[i+1:], "..")
		if k < 0 {
			return false
		}
		i += 1 + k
	}
	return false
}

// nextComponent cuts the first component that means anything off a path; it is
// empty at the end.
func nextComponent(path string) (c, rest string) {
	for path != "" {
		i := strings.IndexByte(path, '/')
		if i < 0 {
			c, path = path, ""
		} else {
			c, path = path[:i], path[i+1:]
		}
		if c != "" && c != "." {
			return c, path
		}
	}
	return "", ""
}

// child returns the child of a node called name, which is made if it is not there.
func (t *nameTree) child(parent uint32, name string) (uint32, error) {
	if len(t.nodes) >= len(t.table)*3/4 {
		t.grow()
	}
	for h := t.hash(parent, name); ; h++ {
		slot := &t.table[h&uint32(len(t.table)-1)]
		if n := *slot; n != 0 {
			if d := &t.nodes[n]; d.parent == parent && string(t.name(n)) == name {
				return n, nil
			}
			continue
		}
		n := uint32(len(t.nodes))
		if n >= maxNodes || len(t.arena) > MaxTOCSize {
			return 0, fmt.Errorf("%w: more than %d names, or %d bytes of them", ErrLimit, maxNodes, MaxTOCSize)
		}
		*slot = n
		p := &t.nodes[parent]
		d := nameNode{parent: parent, name: uint32(len(t.arena)), rank: noRank, next: p.kids}
		p.kids = n
		if len(t.nodes) == cap(t.nodes) {
			t.nodes = slices.Grow(t.nodes, 64+len(t.nodes)/4)
		}
		t.nodes = append(t.nodes, d)
		if len(t.arena)+len(name)+binary.MaxVarintLen32 > cap(t.arena) {
			t.arena = slices.Grow(t.arena, len(name)+binary.MaxVarintLen32+len(t.arena)/4)
		}
		t.arena = append(binary.AppendUvarint(t.arena, uint64(len(name))), name...)
		return n, nil
	}
}

func (t *nameTree) hash(parent uint32, name string) uint32 {
	return uint32(maphash.String(t.seed, name)) ^ parent*0x9e3779b1
}

// grow doubles the hash table.
func (t *nameTree) grow() {
	t.table = make([]uint32, 2*len(t.table))
	for n := 1; n < len(t.nodes); n++ {
		h := uint32(maphash.Bytes(t.seed, t.name(uint32(n)))) ^ t.nodes[n].parent*0x9e3779b1
		for ; t.table[h&uint32(len(t.table)-1)] != 0; h++ {
		}
		t.table[h&uint32(len(t.table)-1)] = uint32(n)
	}
}

// name returns the last component of a node.
func (t *nameTree) name(n uint32) []byte {
	if n == 0 {
		return nil
	}
	p := t.arena[t.nodes[n].name:]
	k, w := binary.Uvarint(p)
	return p[w : w+int(k)]
}

// order returns the nodes breadth first: the children of a node one behind the
// other, by name.
func (t *nameTree) order() []uint32 {
	order := make([]uint32, 1, len(t.nodes))
	for i := 0; i < len(order); i++ {
		first := len(order)
		for n := t.nodes[order[i]].kids; n != 0; n = t.nodes[n].next {
			order = append(order, n)
		}
		slices.SortFunc(order[first:], func(a, b uint32) int { return bytes.Compare(t.name(a), t.name(b)) })
	}
	return order
}

// write appends the node sections. It takes the tree's memory.
func (t *nameTree) write(w *sectionWriter) {
	t.table = nil
	var (
		order                 = t.order()
		shared, suffix, kids  ints
		ranks, textAt, firsts ints
		text                  []byte
		prev                  []byte
		parent                uint32
		next                  = 1
	)
	for _, s := range [...]*ints{&shared, &suffix, &kids, &ranks} {
		s.want = len(order)
	}
	for i, n := range order {
		name, d := t.name(n), &t.nodes[n]
		same := 0
		if i%blockLen == 0 {
			textAt.add(int64(len(text)))
			firsts.add(int64(next))
		} else if d.parent == parent {
			for same < min(len(prev), len(name), math.MaxUint8) && prev[same] == name[same] {
				same++
			}
		}
		shared.add(int64(same))
		k := len(name) - same
		suffix.add(int64(min(k, math.MaxUint8)))
		if k >= math.MaxUint8 {
			text = binary.AppendUvarint(text, uint64(k-math.MaxUint8))
		}
		text = append(text, name[same:]...)
		children := 0
		for c := d.kids; c != 0; c = t.nodes[c].next {
			children++
		}
		kids.add(int64(children))
		next += children
		rank := int64(d.rank) + 1
		if d.rank == noRank {
			rank = 0
		}
		ranks.add(rank)
		prev, parent = name, d.parent
	}
	t.free()
	w.text(text)
	w.plain(&shared)
	w.plain(&suffix)
	w.plain(&kids)
	w.running(&ranks, 1)
	w.plain(&textAt)
	w.plain(&firsts)
}

// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"fmt"
	"strings"
)

// walk yields all entries in the order of the tar, until yield returns false. What
// it has yielded is valid; an error says why it ends early.
func (t *table) walk(yield func(int, *Entry) bool) error {
	nodes, err := t.byRank()
	if err != nil {
		return err
	}
	var (
		w       = pathWalker{t: t, cursor: nameCursor{t: t}, parent: -1}
		outside = strs{p: t.outside}
		size    int64
		end     int64
	)
	for rank, node := range nodes {
		var (
			e    Entry
			path string
			out  *strs
		)
		if node == noRank {
			out = &outside
		} else if path = w.path(int(node)); path == "" && node != 0 {
			return badf("table", "name of node %d", node)
		}
		if !t.entry(&e, rank, path, out) {
			return badf("table", "entry %d, %q", rank, clip(path))
		}
		if out == nil && cleanPath(e.Name) != path {
			return badf("table", "entry %d, %q: called %q", rank, clip(path), clip(e.Name))
		}
		if out != nil && !upwards(e.Name) && !t.replaced(rank, e.Name) {
			return badf("table", "entry %d, %q: has no place in the tree", rank, clip(e.Name))
		}
		if e.Offset < end+tarBlock {
			return badf("table", "entry %d, %q: at %d, behind %d", rank, clip(e.Name), e.Offset, end)
		}
		end = align(e.Offset + e.Size)
		if size += e.wireSize(); size > MaxTOCSize {
			return fmt.Errorf("table: %w: more than %d bytes of names", ErrLimit, MaxTOCSize)
		}
		if !yield(rank, &e) {
			return nil
		}
	}
	if len(outside.p) != 0 {
		return badf("table", "%d bytes of names too many", len(outside.p))
	}
	return nil
}

// replaced reports whether a later entry than that of a rank has the same path.
func (t *table) replaced(rank int, name string) bool {
	node, ok := t.lookup(name)
	if !ok {
		return false
	}
	later, ok := t.rank(node)
	return ok && later > rank
}

// byRank returns the node of each entry, or noRank.
func (t *table) byRank() ([]uint32, error) {
	nodes := make([]uint32, t.entries)
	for i := range nodes {
		nodes[i] = noRank
	}
	var r int64
	for node := range t.nodes {
		if node%blockLen == 0 {
			r, _ = t.ranks.more.at(node / blockLen)
		} else {
			r += t.ranks.step(node)
		}
		if r == 0 {
			continue // has no entry
		}
		if r < 0 || r > int64(t.entries) || nodes[r-1] != noRank {
			return nil, badf("table", "rank %d of node %d", r-1, node)
		}
		nodes[r-1] = uint32(node)
	}
	return nodes, nil
}

// pathWalker finds paths of nodes, most of which have the same parent as the one before.
type pathWalker struct {
	t      *table
	cursor nameCursor
	parent int
	first  int // of the parent's children
	end    int
	dir    string
	up     nameCursor
	buf    []byte
}

// path returns the path of a node; "" is that of the root, or a fault.
func (w *pathWalker) path(node int) string {
	if node == 0 {
		return ""
	}
	if w.parent < 0 || node < w.first || node >= w.end {
		p, ok := w.t.parent(node)
		if !ok {
			return ""
		}
		if w.up.t = w.t; p != 0 {
			if w.dir, ok = w.t.path(&w.up, p); !ok {
				return ""
			}
		} else {
			w.dir = ""
		}
		if w.first, w.end, ok = w.t.children(p); !ok || node < w.first || node >= w.end {
			w.parent = -1
			return ""
		}
		w.parent = p
	}
	name, ok := w.cursor.nameOf(node)
	if !ok || len(name) == 0 || len(w.dir)+1+len(name) > MaxName {
		return ""
	}
	if w.parent == 0 {
		return string(name)
	}
	w.buf = append(append(append(w.buf[:0], w.dir...), '/'), name...)
	return string(w.buf)
}

// checkNames validates the nodes: that their names are in order and the blocks where
// they should be.
func (t *table) checkNames() error {
	var (
		at   int64                 // place in the text
		next int64 = 1             // first child of the node
		kids       = []int64{0, 1} // where siblings begin: of the nodes that follow
		name []byte
	)
	for node := range t.nodes {
		if node%blockLen == 0 {
			text, _ := t.textAt.at(node / blockLen)
			first, _ := t.firsts.at(node / blockLen)
			if text != at || first != next {
				return badf("table", "block of node %d: text at %d, children at %d, want %d, %d", node, text, first, at, next)
			}
		}
		begins := len(kids) > 0 && kids[0] == int64(node)
		for len(kids) > 0 && kids[0] <= int64(node) {
			kids = kids[1:]
		}
		end, part, ok := t.suffixOf(node, at)
		same, _ := t.shared.at(node)
		if !ok || same < 0 || same > int64(len(name)) || same > 0 && (begins || node%blockLen == 0) || (node == 0) != (same == 0 && len(part) == 0) {
			return badf("table", "name of node %d: %d bytes of %d", node, same, len(name))
		}
		whole := append(name[:same:same], part...)
		if c := string(whole); node > 0 && (!begins && c <= string(name) || c == "." || c == ".." || strings.IndexByte(c, '/') >= 0) {
			return badf("table", "name of node %d: %q behind %q", node, clip(c), clip(string(name)))
		}
		at, name = end, whole
		if k := t.kidsOf(node); k > 0 {
			if next += k; next > int64(t.nodes) || next-k <= int64(node) {
				return badf("table", "children of node %d up to %d of %d", node, next, t.nodes)
			}
			kids = append(kids, next)
		}
	}
	if next != int64(t.nodes) || at != int64(len(t.text)) {
		return badf("table", "%d nodes of %d, %d bytes of names of %d", next, t.nodes, at, len(t.text))
	}
	return nil
}

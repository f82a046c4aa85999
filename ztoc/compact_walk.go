// SPDX-License-Identifier: Apache-2.0

package ztoc

import "fmt"

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

// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bytes"
	"fmt"
	"math"
	"slices"
)

// walk yields all entries in the order of the tar, until yield returns false. What
// it has yielded is valid; an error says why it ends early.
func (t *table) walk(yield func(int, *Entry) bool) error {
	nodes, err := t.byRank()
	if err != nil {
		return err
	}
	quick := *t
	for _, c := range [...]*column{&quick.sec, &quick.nsec, &quick.access, &quick.change} {
		c.expand()
	}
	t = &quick
	var (
		paths   = newPathWalker(t)
		at      = placer{t: t, rank: -1}
		outside = strs{p: t.outside}
		size    int64
		e       Entry
	)
	for rank, node := range nodes {
		var (
			path []byte
			out  *strs
		)
		if node == noRank {
			out = &outside
		} else {
			var ok bool
			if path, ok = paths.path(int(node)); !ok {
				return badf("table", "name of node %d", node)
			}
		}
		if !at.follow() || !t.entry(&e, &at, path, out) {
			return badf("table", "entry %d, %q", rank, clip(string(path)))
		}
		if out != nil && !upwards(e.Name) && !t.replaced(rank, e.Name) {
			return badf("table", "entry %d, %q: has no place in the tree", rank, clip(e.Name))
		}
		if size += e.wireSize(); size > MaxTOCSize {
			return fmt.Errorf("table: %w: more than %d bytes of names", ErrLimit, MaxTOCSize)
		}
		if !yield(rank, &e) {
			return nil
		}
	}
	if len(outside.p) != 0 || at.text != int64(len(t.extras)) {
		return badf("table", "strings that belong to no entry")
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

// pathWalker finds the paths of nodes, and keeps what the next one is likely to need:
// the directories on the way to the last.
type pathWalker struct {
	t      *table
	levels []level
	buf    []byte // the last path
	chain  []int  // scratch
}

// level is a directory, whose children are [names.first, end).
type level struct {
	names nameCursor
	end   int
	path  int // bytes of its own path, the slash behind it included
}

func newPathWalker(t *table) *pathWalker {
	w := &pathWalker{t: t}
	w.push(0)
	return w
}

// push makes a node, called path, the last level.
func (w *pathWalker) push(node int) bool {
	first, end, ok := w.t.children(node)
	if n := len(w.levels); n < cap(w.levels) {
		w.levels = w.levels[:n+1] // its buffer is used again
	} else {
		w.levels = append(w.levels, level{})
	}
	if len(w.buf) > 0 {
		w.buf = append(w.buf, '/')
	}
	l := &w.levels[len(w.levels)-1]
	l.names = nameCursor{t: w.t, first: first, node: math.MaxInt, name: l.names.name[:0]}
	l.end, l.path = end, len(w.buf)
	return ok
}

// path returns the path of a node, valid until the next call.
func (w *pathWalker) path(node int) ([]byte, bool) {
	if node == 0 {
		return nil, true
	}
	// Up to a level that has an ancestor among its children: a level that begins
	// behind a node has none of its ancestors either.
	w.chain = w.chain[:0]
	for n, ok := node, true; ; {
		w.chain = append(w.chain, n)
		for len(w.levels) > 1 && w.levels[len(w.levels)-1].names.first > n {
			w.levels = w.levels[:len(w.levels)-1]
		}
		l := &w.levels[len(w.levels)-1]
		if n >= l.names.first && n < l.end {
			break
		}
		if n, ok = w.t.parent(n); !ok || n == 0 {
			return nil, false
		}
	}
	// And down again.
	for i, n := range slices.Backward(w.chain) {
		l := &w.levels[len(w.levels)-1]
		name, ok := l.names.nameOf(n)
		if !ok || n < l.names.first || n >= l.end || l.path+len(name) > MaxName {
			return nil, false
		}
		w.buf = append(w.buf[:l.path], name...)
		if i > 0 && !w.push(n) {
			return nil, false
		}
	}
	return w.buf, true
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
		end, part, ok1 := t.suffixOf(node, at)
		same, ok2 := t.sharedOf(node)
		if !ok1 || !ok2 || same > len(name) || same+len(part) > MaxName || same > 0 && (begins || node%blockLen == 0) {
			return badf("table", "name of node %d: %d bytes of %d", node, same, len(name))
		}
		ordered := begins || bytes.Compare(part, name[same:]) > 0
		name = append(name[:same], part...)
		if node == 0 && len(name) > 0 || node > 0 && (!ordered || !validComponent(name)) {
			return badf("table", "name of node %d: %q", node, clip(string(name)))
		}
		at = end
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

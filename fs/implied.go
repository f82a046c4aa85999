// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"slices"
	"strings"

	"github.com/seekoci/seekoci/ztoc"
)

// Implied returns the directories that a layer has only because something lies in
// them: no entry says what they are, so that they are what they were in the layers
// below. The paths are relative, without "." or doubled slashes, parents first.
// The root is not among them. What Attach refuses is left out.
func Implied(toc TOC) []string {
	described := make(map[string]bool) // by path: whether an entry says what it is
	var last, path string              // the directory of the entry before, as it says and cleaned
	ok := true
	for _, e := range toc.Entries() {
		dir, base, err := split(e.Name)
		if err != nil {
			continue
		}
		if dir != last {
			last = dir
			path, ok = clean(dir)
			imply(described, path)
		}
		if !ok {
			continue
		}
		if base != "" && e.Type == ztoc.TypeDir && !strings.HasPrefix(base, whPrefix) {
			described[join(path, base)] = true
		}
	}
	var out []string
	for p, ok := range described {
		if !ok {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

// impliedPaths is what Implied returns for the TOC that b was made of.
func (b *builder) impliedPaths() []string {
	out := make([]string, 0, b.implied)
	seen := make(map[uint32]bool, b.implied)
	// What is in a directory comes behind it: its path has those of its parents in it.
	for n := uint32(len(b.names.list) - 1); n > 0; n-- {
		if seen[n] || !b.isImplied(n) {
			continue
		}
		path := b.path(n)
		for p := n; p != 0 && !seen[p]; p = b.names.list[p].parent {
			if b.isImplied(p) {
				seen[p] = true
				out = append(out, path)
			}
			path = path[:max(strings.LastIndexByte(path, '/'), 0)]
		}
	}
	slices.Sort(out)
	return out
}

// isImplied reports whether no entry describes the directory of name n.
func (b *builder) isImplied(n uint32) bool {
	in := &b.inodes[b.names.list[n].inode]
	return in.kind == kindDir && in.entry < 0
}

// path returns the path of name n, without a slash before it.
func (b *builder) path(n uint32) string {
	var parts []string
	for ; n != 0; n = b.names.list[n].parent {
		parts = append(parts, string(b.names.name(n)))
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}

// imply adds path and the directories it lies in.
func imply(described map[string]bool, path string) {
	for path != "" {
		if _, ok := described[path]; ok {
			return // and so are its parents
		}
		described[path] = false
		path = path[:max(strings.LastIndexByte(path, '/'), 0)]
	}
}

// clean returns path without components that mean nothing, and whether it is part of
// the tree: of a hidden path it returns what comes before, of a refused one nothing.
func clean(path string) (string, bool) {
	var out []string
	for rest := path; rest != ""; {
		var c string
		var err error
		c, rest, err = next(rest)
		if err != nil {
			return "", false
		}
		if strings.HasPrefix(c, whPrefix) {
			return strings.Join(out, "/"), false
		}
		if c != "" {
			out = append(out, c)
		}
	}
	return strings.Join(out, "/"), true
}

func join(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}

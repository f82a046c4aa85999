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
			if path, ok = clean(dir); ok {
				imply(described, path)
			}
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

// clean returns path without components that mean nothing, unless it is refused or hidden.
func clean(path string) (string, bool) {
	var out []string
	for rest := path; rest != ""; {
		var c string
		var err error
		c, rest, err = next(rest)
		if err != nil || strings.HasPrefix(c, whPrefix) {
			return "", false
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

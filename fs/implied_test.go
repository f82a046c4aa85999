// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"slices"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
)

func TestImplied(t *testing.T) {
	for _, c := range []struct {
		name string
		toc  []ztoc.Entry
		want []string
	}{
		{"empty", nil, nil},
		{"root", []ztoc.Entry{dir("./"), file("a", 1)}, nil},
		{"described", []ztoc.Entry{dir("a/"), dir("./a/b"), file("/a//b/c", 1)}, nil},
		{"described late", []ztoc.Entry{file("a/b/c", 1), dir("a/b"), dir("a")}, nil},
		{"implied", []ztoc.Entry{file("tmp/x", 1), file("a/b/c", 2), file("a/b/d", 3)}, []string{"a", "a/b", "tmp"}},
		{"below a described one", []ztoc.Entry{dir("a"), dir("a/b/c"), file("a/b/c/d", 1)}, []string{"a/b"}},
		{"above a described one", []ztoc.Entry{dir("a/b")}, []string{"a"}},
		{"whiteouts", []ztoc.Entry{file("a/.wh.x", 1), file("b/.wh..wh..opq", 1)}, []string{"a", "b"}},
		{"links", []ztoc.Entry{symlink("a/b", "c"), link("d/e", "a/b")}, []string{"a", "d"}},
		{"hidden", []ztoc.Entry{dir(".wh..wh.plnk"), file(".wh..wh.plnk/1", 1)}, nil},
		{"above a hidden one", []ztoc.Entry{file("a/.wh..wh.plnk/1", 1)}, []string{"a"}},
		{"refused", []ztoc.Entry{file("../a/b", 1), file("a/../b/c", 1), file("", 1)}, nil},
	} {
		if got := Implied(entries(c.toc)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if tr, err := newTree(entries(c.toc), layerSize, false, plenty()); err == nil && !slices.Equal(tr.implied, c.want) {
			t.Errorf("%s: the tree has %q, want %q", c.name, tr.implied, c.want)
		}
	}
}

// TestImpliedTree holds that with an entry for each implied directory nothing is implied, and the tree is the same.
func TestImpliedTree(t *testing.T) {
	b := mustBuild(t, nil)
	toc := append(slices.Clone(b.z.TOC), file("x/y/z", 1), file("x/.wh.gone", 2), file("tmp/a", 3))
	want, err := newTree(entries(toc), layerSize, false, plenty())
	must(t, err)
	full := toc
	for _, p := range Implied(entries(toc)) {
		full = append(full, ztoc.Entry{Name: p + "/", Type: ztoc.TypeDir, Mode: 0o755})
	}
	got, err := newTree(entries(full), layerSize, false, plenty())
	must(t, err)
	if draw(got) != draw(want) {
		t.Errorf("got:\n%s\nwant:\n%s", draw(got), draw(want))
	}
	if left := Implied(entries(full)); len(left) > 0 {
		t.Errorf("still implied: %q", left)
	}
	if len(full) == len(toc) {
		t.Error("nothing was implied")
	}
}

// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/ztoc"
)

const layerSize = 1 << 20

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// plenty is all the memory there is.
func plenty() *loan { return &loan{from: &budget{max: 1 << 40}} }

// Short entries for tables. The offset of a file is the number that names its bytes.
func file(name string, off int64) ztoc.Entry {
	return ztoc.Entry{Name: name, Type: ztoc.TypeReg, Mode: 0o644, Offset: off, Size: 10}
}

// entries is a TOC.
type entries []ztoc.Entry

func (t entries) Len() int                            { return len(t) }
func (t entries) Entries() iter.Seq2[int, ztoc.Entry] { return slices.All(t) }

func dir(name string) ztoc.Entry {
	return ztoc.Entry{Name: name, Type: ztoc.TypeDir, Mode: 0o700}
}

func link(name, to string) ztoc.Entry {
	return ztoc.Entry{Name: name, Type: ztoc.TypeHardlink, Linkname: to}
}

func symlink(name, to string) ztoc.Entry {
	return ztoc.Entry{Name: name, Type: ztoc.TypeSymlink, Linkname: to, Mode: 0o777}
}

// draw lists a tree: "path type", the offset for files, the number of links if not
// the usual, "opaque".
func draw(t *tree) string {
	var lines []string
	var walk func(d uint32, path string)
	line := func(i uint32, path string) {
		n := &t.nodes[i]
		var a fuse.Attr
		t.attr(i, &a)
		s := path + " "
		switch n.mode & unix.S_IFMT {
		case unix.S_IFDIR:
			s += fmt.Sprintf("d%o", n.mode&0o7777)
		case unix.S_IFLNK:
			s += "->" + t.target(n)
		case unix.S_IFCHR:
			s += fmt.Sprintf("c%x", a.Rdev)
		default:
			s += fmt.Sprint(n.data)
		}
		usual := uint32(1)
		if n.isDir() {
			usual = 2
		}
		if n.nlink != usual {
			s += fmt.Sprintf(" x%d", n.nlink)
		}
		for _, x := range t.attrs(i) {
			s += " " + t.key(x) + "=" + t.value(x)
		}
		lines = append(lines, s)
	}
	walk = func(d uint32, path string) {
		first, end := t.nodes[d].children()
		for c := first; c < end; c++ {
			p := path + t.name(&t.nodes[c])
			i, ok := t.lookup(&t.nodes[d], t.name(&t.nodes[c]))
			if !ok || i != t.file(c) {
				lines = append(lines, p+" NOT FOUND")
				continue
			}
			line(i, p)
			if t.nodes[i].isDir() {
				walk(i, p+"/")
			}
		}
	}
	line(0, "/")
	walk(0, "/")
	return strings.Join(lines, "\n")
}

// cutTOC is a TOC that is malformed behind its first entry.
type cutTOC struct{ entries }

func (t cutTOC) Entries() iter.Seq2[int, ztoc.Entry] { return slices.All(t.entries[:1]) }

func TestTreeCut(t *testing.T) {
	if _, err := newTree(cutTOC{entries{file("a", 1), file("b", 2)}}, layerSize, false, plenty()); !errors.Is(err, ErrTOC) || !strings.Contains(err.Error(), "1 of 2") {
		t.Errorf("error %v", err)
	}
}

func TestTree(t *testing.T) {
	for _, c := range []struct {
		name string
		toc  []ztoc.Entry
		want string
	}{
		{"empty", nil, "/ d755"},
		{"root", []ztoc.Entry{dir("./")}, "/ d700"},
		{"names", []ztoc.Entry{file("./a", 1), file("/b", 2), file("d//c", 3), file("d/./e", 4), dir("f/.")},
			"/ d755 x4\n/a 1\n/b 2\n/d d755\n/d/c 3\n/d/e 4\n/f d700"},
		{"sorted by bytes", []ztoc.Entry{file("b", 1), file("a", 2), file("B", 3), file("ä", 4), file("a-", 5)},
			"/ d755\n/B 3\n/a 2\n/a- 5\n/b 1\n/ä 4"},
		{"last wins", []ztoc.Entry{file("a", 1), symlink("a", "x"), file("a", 3)}, "/ d755\n/a 3"},
		{"directories merge", []ztoc.Entry{dir("d"), file("d/a", 1), {Name: "d/", Type: ztoc.TypeDir, Mode: 0o1777}},
			"/ d755 x3\n/d d1777\n/d/a 1"},
		{"parent comes late", []ztoc.Entry{file("d/a", 1), dir("d")}, "/ d755 x3\n/d d700\n/d/a 1"},
		{"file becomes directory", []ztoc.Entry{file("d", 1), dir("d"), file("d/a", 2)}, "/ d755 x3\n/d d700\n/d/a 2"},
		{"empty directory becomes file", []ztoc.Entry{dir("d"), file("d", 2)}, "/ d755\n/d 2"},
		{"hard links", []ztoc.Entry{file("b", 1), link("a", "b"), link("c", "./a")}, "/ d755\n/a 1 x3\n/b 1 x3\n/c 1 x3"},
		{"hard link forward", []ztoc.Entry{link("a", "b"), link("b", "c"), file("c", 7)}, "/ d755\n/a 7 x3\n/b 7 x3\n/c 7 x3"},
		{"hard link of a symlink", []ztoc.Entry{symlink("a", "/x"), link("b", "a")}, "/ d755\n/a ->/x x2\n/b ->/x x2"},
		{"hard link keeps what was replaced", []ztoc.Entry{file("a", 1), link("b", "a"), file("a", 2)}, "/ d755\n/a 2\n/b 1"},
		{"whiteouts", []ztoc.Entry{file("d/.wh.x", 1), file("d/.wh.y", 1), file("d/y", 2), file("d/.wh.x", 3)},
			"/ d755 x3\n/d d755\n/d/x c0\n/d/y 2"},
		{"opaque", []ztoc.Entry{dir("d"), file("d/.wh..wh..opq", 1), file("e/.wh..wh..opq", 1)},
			"/ d755 x4\n/d d700 trusted.overlay.opaque=y\n/e d755 trusted.overlay.opaque=y"},
		{"aufs", []ztoc.Entry{dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", 1), file(".wh..wh.aufs", 1)}, "/ d755"},
		{"device", []ztoc.Entry{{Name: "c", Type: ztoc.TypeChar, Devmajor: 0xfff, Devminor: 0xfffff}}, "/ d755\n/c cffffffff"},
		{"xattrs", []ztoc.Entry{{Name: "a", Type: ztoc.TypeReg, Offset: 1, PAX: []ztoc.Record{
			{Key: "SCHILY.xattr.security.capability", Value: capSetgid}, {Key: "SCHILY.xattr.trusted.overlay.redirect", Value: "/"},
			{Key: "SCHILY.xattr.user.b", Value: ""}, {Key: "SCHILY.xattr.system.posix_acl_access", Value: "\x02\x00\x00\x00"},
			{Key: "SCHILY.xattr.system.nfs4_acl", Value: "x"}, {Key: "SCHILY.xattr.nonsense", Value: "x"}, {Key: "mtime", Value: "1"}}}},
			"/ d755\n/a 1 security.capability=" + capSetgid + " user.b= system.posix_acl_access=\x02\x00\x00\x00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr, err := newTree(entries(c.toc), layerSize, false, plenty())
			must(t, err)
			if got := draw(tr); got != c.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, c.want)
			}
		})
	}
}

// TestTreeLinkAttributes holds that a file looks as an extraction leaves it: the
// header of the last hard link decides, and no time is before 1970.
func TestTreeLinkAttributes(t *testing.T) {
	target, last, old := file("a", 1), link("b", "a"), file("c", 2)
	target.UID, target.ModTime = 1, time.Unix(10, 1)
	last.UID, last.GID, last.Mode, last.ModTime = 2, 3, 0o4755, time.Unix(20, 2)
	old.ModTime = time.Unix(-1, 5)
	tr, err := newTree(entries{target, link("x", "a"), last, old}, layerSize, false, plenty())
	must(t, err)
	for name, want := range map[string]fuse.Attr{
		"a": {Mode: unix.S_IFREG | 0o4755, Mtime: 20, Mtimensec: 2, Owner: fuse.Owner{Uid: 2, Gid: 3}},
		"b": {Mode: unix.S_IFREG | 0o4755, Mtime: 20, Mtimensec: 2, Owner: fuse.Owner{Uid: 2, Gid: 3}},
		"c": {Mode: unix.S_IFREG | 0o644},
	} {
		i, ok := tr.lookup(&tr.nodes[0], name)
		if !ok {
			t.Fatalf("%s not found", name)
		}
		var a fuse.Attr
		tr.attr(i, &a)
		if got := (fuse.Attr{Mode: a.Mode, Mtime: a.Mtime, Mtimensec: a.Mtimensec, Owner: a.Owner}); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

func TestTreeUserXattr(t *testing.T) {
	toc := []ztoc.Entry{{Name: "d", Type: ztoc.TypeDir, PAX: []ztoc.Record{{Key: "SCHILY.xattr.user.overlay.redirect", Value: "/"}}}, file("d/.wh..wh..opq", 1)}
	tr, err := newTree(entries(toc), layerSize, true, plenty())
	must(t, err)
	if got, want := draw(tr), "/ d755 x3\n/d d0 user.overlay.opaque=y"; got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestTreeRefuses(t *testing.T) {
	long := strings.Repeat("n", 256)
	edit := func(f func(*ztoc.Entry)) []ztoc.Entry {
		e := file("a", 1)
		f(&e)
		return []ztoc.Entry{e}
	}
	var bomb []ztoc.Entry
	for n := range 40 {
		bomb = append(bomb, file(fmt.Sprint(n, strings.Repeat("/a", 2000), "/b"), 1))
	}
	for name, toc := range map[string][]ztoc.Entry{
		"empty name":            {file("", 1)},
		"upwards":               {file("../a", 1)},
		"upwards inside":        {file("a/../b", 1)},
		"upwards at the end":    {dir("a/..")},
		"NUL":                   {file("a\x00b", 1)},
		"NUL in a directory":    {file("a\x00/b", 1)},
		"long name":             {file(long, 1)},
		"long directory":        {file(long+"/a", 1)},
		"long path":             {file(strings.Repeat("a/", 2049)+"a", 1)},
		"file as root":          {file("./", 1)},
		"file in a file":        {file("a", 1), file("a/b", 2)},
		"file in a symlink":     {symlink("a", "/"), file("a/b", 2)},
		"replaces a full dir":   {file("a/b", 1), file("a", 2)},
		"link replaces it":      {file("a/b", 1), file("c", 1), link("a", "c")},
		"link to nothing":       {link("a", "b")},
		"link to no name":       {link("a", "")},
		"link upwards":          {link("a", "../b")},
		"link to a directory":   {dir("d"), link("a", "d")},
		"link to a later dir":   {link("a", "d"), dir("d")},
		"link to the root":      {link("a", "/")},
		"link to itself":        {link("a", "a")},
		"link onto its target":  {file("a", 1), link("a", "a")},
		"links in a circle":     {link("a", "b"), link("b", "c"), link("c", "a")},
		"link to a hidden file": {file(".wh..wh.plnk/1", 1), link("a", ".wh..wh.plnk/1")},
		"in a pending link":     {link("a", "b"), file("a/x", 1), file("b", 1)},
		"whiteout of nothing":   {file(".wh.", 1)},
		"whiteout of dot":       {file(".wh..", 1)},
		"whiteout of dots":      {file(".wh...", 1)},
		"below a whiteout":      {file("d/.wh.a/x", 1)},
		"no capabilities": edit(func(e *ztoc.Entry) {
			e.PAX = []ztoc.Record{{Key: "SCHILY.xattr.security.capability", Value: "x"}}
		}),
		"no access control list": edit(func(e *ztoc.Entry) {
			e.PAX = []ztoc.Record{{Key: "SCHILY.xattr.system.posix_acl_default", Value: "x"}}
		}),
		"whiteout below a file": {file("d/.wh.a", 1), file("d", 1)},
		"negative size":         edit(func(e *ztoc.Entry) { e.Size = -1 }),
		"negative offset":       edit(func(e *ztoc.Entry) { e.Offset = -1 }),
		"past the end":          edit(func(e *ztoc.Entry) { e.Size = layerSize }),
		"overflow":              edit(func(e *ztoc.Entry) { e.Size = 1<<63 - 1 }),
		"unknown type":          edit(func(e *ztoc.Entry) { e.Type = 99 }),
		"no type":               edit(func(e *ztoc.Entry) { e.Type = 0 }),
		"no owner":              edit(func(e *ztoc.Entry) { e.UID = 1<<32 - 1 }),
		"empty symlink":         {symlink("a", "")},
		"long symlink":          {symlink("a", strings.Repeat("x", 4096))},
		"symlink with NUL":      {symlink("a", "x\x00")},
		"major":                 {{Name: "c", Type: ztoc.TypeChar, Devmajor: 1 << 12}},
		"minor":                 {{Name: "c", Type: ztoc.TypeBlock, Devminor: -1}},
		"xattr without name":    edit(func(e *ztoc.Entry) { e.PAX = []ztoc.Record{{Key: "SCHILY.xattr."}} }),
		"xattr with long name":  edit(func(e *ztoc.Entry) { e.PAX = []ztoc.Record{{Key: "SCHILY.xattr.user." + long}} }),
		"xattr too large": edit(func(e *ztoc.Entry) {
			e.PAX = []ztoc.Record{{Key: "SCHILY.xattr.user.a", Value: strings.Repeat("x", 65<<10)}}
		}),
		"implied directories": bomb,
	} {
		tr, err := newTree(entries(toc), layerSize, false, plenty())
		var ee *EntryError
		if !errors.Is(err, ErrTOC) || !errors.As(err, &ee) || ee.Name != toc[ee.Entry].Name {
			t.Errorf("%s: error %v", name, err)
		}
		if tr != nil {
			t.Errorf("%s: accepted as\n%s", name, draw(tr))
		}
	}
}

// TestTreeNumbers pins the numbers of nodes, which running kernels remember.
func TestTreeNumbers(t *testing.T) {
	tr, err := newTree(entries{file("z", 1), file("d/b", 2), link("a", "z"), file("d/a/x", 3), dir("c"), file("d/.wh.c", 4)}, layerSize, false, plenty())
	must(t, err)
	var got []string
	for i := range tr.nodes {
		got = append(got, fmt.Sprintf("%s/%d", tr.name(&tr.nodes[i]), tr.file(uint32(i))))
	}
	if g, w := strings.Join(got, " "), "/0 a/1 c/2 d/3 z/1 a/5 b/6 c/7 x/8"; g != w {
		t.Errorf("got  %s\nwant %s", g, w)
	}
}

func FuzzTree(f *testing.F) {
	f.Add("1a\n2d\n2d/x\n4e|a\n3s|../x\n1d/.wh.y\n1d/.wh..wh..opq")
	f.Add("4a|b\n4b|a\n1./../x\n1a//b/./c")
	f.Fuzz(func(t *testing.T, spec string) {
		var toc []ztoc.Entry
		for i, l := range strings.Split(spec, "\n") {
			if l == "" {
				continue
			}
			name, to, _ := strings.Cut(l[1:], "|")
			toc = append(toc, ztoc.Entry{Name: name, Linkname: to, Type: ztoc.EntryType(l[0] - '0'), Offset: int64(i), Size: 1, ModTime: time.Unix(int64(i), 0)})
		}
		tr, err := newTree(entries(toc), layerSize, false, plenty())
		if err != nil {
			if !errors.Is(err, ErrTOC) {
				t.Errorf("untyped error %v", err)
			}
			return
		}
		all := Implied(entries(toc)) // what was replaced later included
		if !slices.IsSorted(tr.implied) || slices.ContainsFunc(tr.implied, func(p string) bool { return !slices.Contains(all, p) }) {
			t.Errorf("implied %q, of %q", tr.implied, all)
		}
		if s := draw(tr); strings.Contains(s, "NOT FOUND") {
			t.Errorf("unsorted:\n%s", s)
		}
		links := make([]uint32, len(tr.nodes))
		for i := range tr.nodes {
			n := &tr.nodes[i]
			if i > 0 && (!tr.nodes[n.parent].isDir() || tr.name(n) == "" || tr.name(n) == "." || tr.name(n) == ".." || strings.Contains(tr.name(n), "/")) {
				t.Errorf("node %d %q below %d", i, tr.name(n), n.parent)
			}
			links[tr.file(uint32(i))]++
			if n.isDir() {
				links[i]++
				if i > 0 {
					links[n.parent]++
				}
			}
		}
		for i := range tr.nodes {
			if n := &tr.nodes[i]; n.flags&flagAlias == 0 && n.nlink != links[i] {
				t.Errorf("node %d has %d links, says %d", i, links[i], n.nlink)
			}
		}
	})
}

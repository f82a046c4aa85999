// SPDX-License-Identifier: Apache-2.0

// Package tree describes everything that can be seen of a file tree, for comparing two of them.
//
// [Write] writes one line per file, sorted by path: mode, owner, size, modification time, device,
// links, extended attributes and the digest of the content. Two trees are equal when their lines are; [Diff] shows where they are not.
//
//	a, b := new(strings.Builder), new(strings.Builder)
//	err := errors.Join(tree.Write(a, "/mnt/lazy"), tree.Write(b, "/mnt/unpacked"))
//	for _, line := range tree.Diff(a.String(), b.String(), 10) {
//		fmt.Println(line)
//	}
//
// # Limits
//
// Access and change times and inode numbers are not compared, neither are the link counts of directories: overlayfs
// makes those up. The root's modification time is left out too: layers seldom have an entry for it. The tree stays within one mount: directories of another are named but not entered.
//
// # Decisions
//
//   - A file that cannot be read is a line too, with its error: a tree that fails in the same way is the same tree.
//   - Hard links are compared as groups: each says which path of its group comes first.
package tree

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// inode identifies a file within a tree.
type inode struct{ dev, ino uint64 }

// walker is one walk.
type walker struct {
	root  string
	dev   uint64
	first map[inode]string // of hard-linked files: the path seen first
	out   *bufio.Writer
}

// Write writes the lines of the tree at root. Its error is one of w or of root itself.
func Write(w io.Writer, root string) error {
	var st unix.Stat_t
	if err := unix.Lstat(root, &st); err != nil {
		return fmt.Errorf("read tree %s: %w", root, err)
	}
	t := walker{root: root, dev: st.Dev, first: make(map[inode]string), out: bufio.NewWriter(w)}
	t.visit(".")
	return t.out.Flush()
}

// visit writes the lines of path, relative to the root, and of what is below it. Errors of the writer stick to t.out.
func (t *walker) visit(path string) {
	full := filepath.Join(t.root, path)
	var st unix.Stat_t
	if err := unix.Lstat(full, &st); err != nil {
		fmt.Fprintf(t.out, "%q: %v\n", path, err)
		return
	}
	if st.Dev != t.dev && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		fmt.Fprintf(t.out, "%q another mount\n", path)
		return
	}
	fmt.Fprintf(t.out, "%q mode=%o owner=%d:%d", path, st.Mode, st.Uid, st.Gid)
	if path != "." {
		fmt.Fprintf(t.out, " mtime=%d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
	}
	t.xattrs(full)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		t.directory(path, full)
		return
	}
	t.links(path, st)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		t.content(full, st.Size)
	case unix.S_IFLNK:
		target, err := os.Readlink(full)
		fmt.Fprintf(t.out, " size=%d target=%q%s", st.Size, target, said(err))
	case unix.S_IFCHR, unix.S_IFBLK:
		fmt.Fprintf(t.out, " rdev=%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	fmt.Fprintln(t.out)
}

func (t *walker) directory(path, full string) {
	entries, err := os.ReadDir(full)
	fmt.Fprintf(t.out, " entries=%d%s\n", len(entries), said(err))
	for _, e := range entries {
		t.visit(filepath.Join(path, e.Name()))
	}
}

// links writes the link count and, of hard links, the group.
func (t *walker) links(path string, st unix.Stat_t) {
	fmt.Fprintf(t.out, " nlink=%d", st.Nlink)
	if st.Nlink < 2 {
		return
	}
	id := inode{st.Dev, st.Ino}
	if _, ok := t.first[id]; !ok {
		t.first[id] = path
	}
	fmt.Fprintf(t.out, " same=%q", t.first[id])
}

func (t *walker) content(full string, size int64) {
	f, err := os.Open(full)
	if err != nil {
		fmt.Fprintf(t.out, " size=%d%s", size, said(err))
		return
	}
	h := sha256.New()
	n, err := io.Copy(h, f)
	fmt.Fprintf(t.out, " size=%d read=%d sha256=%x%s", size, n, h.Sum(nil), said(errors.Join(err, f.Close())))
}

func (t *walker) xattrs(full string) {
	names, err := list(full)
	if err != nil {
		fmt.Fprintf(t.out, " xattrs%s", said(err))
		return
	}
	slices.Sort(names)
	for _, name := range names {
		value := make([]byte, 64<<10) // the kernel's limit of a value
		n, err := unix.Lgetxattr(full, name, value)
		fmt.Fprintf(t.out, " %s=%q%s", name, value[:max(n, 0)], said(err))
	}
}

// list returns the names of a file's extended attributes.
func list(full string) ([]string, error) {
	buf := make([]byte, 64<<10) // the kernel's limit of a list
	n, err := unix.Llistxattr(full, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil || n == 0 {
		return nil, err
	}
	var names []string
	for name := range bytes.SplitSeq(bytes.TrimSuffix(buf[:n], []byte{0}), []byte{0}) {
		names = append(names, string(name))
	}
	return names, nil
}

// said is an error as part of a line, without the path, which differs from tree to tree.
func said(err error) string {
	if err == nil {
		return ""
	}
	if e := (*os.PathError)(nil); errors.As(err, &e) {
		err = e.Err
	}
	return fmt.Sprintf(" error=%q", err)
}

// Diff returns the lines that only one of two trees has, marked "-" for a's and "+" for b's, in order, at most limit of them.
func Diff(a, b string, limit int) []string {
	inA, inB := set(a), set(b)
	var out []string
	for line := range strings.Lines(a) {
		if !inB[line] {
			out = append(out, "-"+strings.TrimSuffix(line, "\n"))
		}
	}
	for line := range strings.Lines(b) {
		if !inA[line] {
			out = append(out, "+"+strings.TrimSuffix(line, "\n"))
		}
	}
	slices.SortStableFunc(out, func(x, y string) int { return strings.Compare(x[1:], y[1:]) })
	return out[:min(len(out), limit)]
}

func set(s string) map[string]bool {
	m := make(map[string]bool)
	for line := range strings.Lines(s) {
		m[line] = true
	}
	return m
}

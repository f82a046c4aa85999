// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"cmp"
	"slices"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// node is one name of a layer, and the file behind it. It holds no pointer: a tree
// is a handful of allocations however many files it has.
type node struct {
	// data depends on the type: the offset in the tar of a regular file's bytes,
	// the first child of a directory, the place in the arena of a symbolic link's
	// target, the number of a device, the node with the file of an alias.
	data    int64
	size    int64  // st_size; the number of children of a directory
	sec     int64  // modification time, Unix seconds
	nsec    uint32 // and nanoseconds
	uid     uint32
	gid     uint32
	nlink   uint32
	parent  uint32
	name    uint32 // place in the arena
	mode    uint16 // st_mode; 0 for an alias
	nameLen uint8
	flags   uint8
}

// The flags of a node.
const (
	flagAlias      = 1 << iota // one more hard link; data is the node that has the file
	flagXattrs                 // there are entries in tree.xattrs
	flagPrivileged             // who runs it gets what they do not have
)

// xattr is one extended attribute, its strings in the arena.
type xattr struct {
	node                uint32
	key, keyLen, valLen uint32 // the value is behind the key
}

// tree is the immutable file tree of one layer. Node 0 is its root. The children of
// a directory are consecutive nodes in the order of their names, and directories
// are numbered breadth first, so that a TOC always gives the same numbers.
type tree struct {
	nodes  []node
	arena  string
	xattrs []xattr // by node

	implied []string // what Implied returns
	memory  int64    // bytes that all this takes
}

// dirSize is the st_size of directories.
const dirSize = 4096

func (n *node) isDir() bool { return n.mode&syscall.S_IFMT == syscall.S_IFDIR }

// children returns the half-open range of a directory's nodes.
func (n *node) children() (first, end uint32) {
	return uint32(n.data), uint32(n.data + n.size)
}

func (t *tree) name(n *node) string {
	return t.arena[n.name:][:n.nameLen]
}

// file returns the number of the node that has the file of node i.
func (t *tree) file(i uint32) uint32 {
	if n := &t.nodes[i]; n.flags&flagAlias != 0 {
		return uint32(n.data)
	}
	return i
}

// lookup returns the file called name in directory d.
func (t *tree) lookup(d *node, name string) (uint32, bool) {
	first, end := d.children()
	i, ok := slices.BinarySearchFunc(t.nodes[first:end], name, func(n node, name string) int {
		return cmp.Compare(t.name(&n), name)
	})
	if !ok {
		return 0, false
	}
	return t.file(first + uint32(i)), true
}

// target returns the target of the symbolic link n.
func (t *tree) target(n *node) string {
	return t.arena[n.data:][:n.size]
}

// attrs returns the extended attributes of node i.
func (t *tree) attrs(i uint32) []xattr {
	if t.nodes[i].flags&flagXattrs == 0 {
		return nil
	}
	from, _ := slices.BinarySearchFunc(t.xattrs, i, func(x xattr, i uint32) int { return cmp.Compare(x.node, i) })
	to := from
	for to < len(t.xattrs) && t.xattrs[to].node == i {
		to++
	}
	return t.xattrs[from:to]
}

func (t *tree) key(x xattr) string   { return t.arena[x.key:][:x.keyLen] }
func (t *tree) value(x xattr) string { return t.arena[x.key+x.keyLen:][:x.valLen] }

// attr fills in the attributes of node i, but for its inode number.
func (t *tree) attr(i uint32, a *fuse.Attr) {
	n := &t.nodes[i]
	size := uint64(n.size)
	var rdev uint32
	switch n.mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		size = dirSize
	case syscall.S_IFCHR, syscall.S_IFBLK:
		rdev = uint32(n.data)
	}
	*a = fuse.Attr{
		Size:      size,
		Blocks:    (size + 511) / 512,
		Atime:     uint64(n.sec),
		Mtime:     uint64(n.sec),
		Ctime:     uint64(n.sec),
		Atimensec: n.nsec,
		Mtimensec: n.nsec,
		Ctimensec: n.nsec,
		Mode:      uint32(n.mode),
		Nlink:     n.nlink,
		Owner:     fuse.Owner{Uid: n.uid, Gid: n.gid},
		Rdev:      rdev,
		Blksize:   4096,
	}
}

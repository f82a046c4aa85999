// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"fmt"
	"iter"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/ztoc"
)

// Bounds of what one layer makes us keep.
const (
	maxNames = 4 << 20 // missing parents included
	// A missing parent is two bytes of a TOC and a hundred of memory. There are at
	// most so many, and some for each entry.
	maxImplied         = 1 << 16
	maxImpliedPerEntry = 4
	maxText            = 1 << 31 // bytes of link targets and extended attributes; with the names, places fit 32 bits
	// buildSize is the memory for a name while the tree is built, but for its bytes.
	buildSize = int64(unsafe.Sizeof(buildName{})+unsafe.Sizeof(buildInode{})+unsafe.Sizeof(node{})) + 8*4
)

// Names with a meaning in OCI layers.
const (
	whPrefix = ".wh."          // .wh.X says that X of the layers below is gone
	whMeta   = ".wh..wh."      // what a union file system of old kept for itself
	whOpaque = whMeta + ".opq" // nothing of the layers below is seen in this directory
	paxXattr = "SCHILY.xattr." // PAX records that are extended attributes
	userOvl  = "user.overlay." // the same where overlayfs keeps its own there
	opaqueTr = "trusted.overlay.opaque"
	opaqueUs = userOvl + "opaque"
)

// TOC is the table of contents of a layer. A [ztoc.Reader] is one.
type TOC interface {
	// Len is the number of entries.
	Len() int
	// Entries yields the entries in tar order with their numbers, the same ones every
	// time: fewer than Len if the TOC turns out to be malformed, which Attach refuses.
	Entries() iter.Seq2[int, ztoc.Entry]
}

// EntryError says why a TOC is no file tree. It wraps ErrTOC.
type EntryError struct {
	Entry  int    // index in the TOC
	Name   string // as the TOC has it
	Reason string
}

// Error implements error.
func (e *EntryError) Error() string {
	return fmt.Sprintf("%v: entry %d %.300q: %s", ErrTOC, e.Entry, e.Name, e.Reason)
}

// Unwrap returns ErrTOC.
func (e *EntryError) Unwrap() error { return ErrTOC }

// buildInode is a file on its way into the tree.
type buildInode struct {
	file   node   // without name, parent and links; a target is in builder.text
	xattrs uint32 // first of its own in builder.xattrs
	nxattr uint32
	entry  int32 // in the TOC; -1 for a directory only implied by what is in it
	kind   kind
	opaque bool
}

type kind uint8

const (
	kindFile kind = iota
	kindDir
	kindWhiteout
	kindPending // a hard link whose target comes later; it is in builder.text
)

// builder makes a tree the way a tar extraction does: entry by entry, later ones
// replacing earlier ones of the same name. Name 0 and inode 0 are the root. There is no
// pointer for each file in what it makes, which spares the garbage collector the look.
type builder struct {
	entries   int   // of the TOC
	size      int64 // uncompressed bytes of the layer
	userxattr bool  // overlayfs uses user.overlay.*

	names   names
	inodes  []buildInode
	wh      []whiteout
	text    []byte  // targets of links, keys and values of xattrs
	xattrs  []xattr // their strings in text
	room    *loan   // of the memory that all this takes
	opaques int     // markers of opaque directories
	implied int     // directories made for want of an entry
	// prefix is the directory part of the last entry's name and prefixName what it
	// led to: most entries have the same directory as the one before.
	prefix     string
	prefixName uint32
}

// whiteout is a whiteout seen; whether it hides anything is known at the end.
type whiteout struct {
	entry  int32
	parent uint32
	name   string
	file   node
}

// errReason is a reason for EntryError.
type errReason string

// Error implements error.
func (e errReason) Error() string { return string(e) }

// newTree builds the tree of a layer with size uncompressed bytes. Meanwhile it needs
// some three times the memory of the tree, taken from room; what the tree keeps
// stays taken.
func newTree(toc TOC, size int64, userxattr bool, room *loan) (*tree, error) {
	n := min(toc.Len(), maxNames)
	b := &builder{entries: n, size: size, userxattr: userxattr, room: room}
	if err := room.take(int64(n+1) * buildSize); err != nil {
		return nil, err
	}
	b.names.init(n + 1)
	b.inodes = append(make([]buildInode, 0, n+1), impliedDir())
	n = 0
	for i, e := range toc.Entries() {
		if err := b.add(i, &e); err != nil {
			return nil, buildError(err, i, e.Name)
		}
		n++
	}
	if n != toc.Len() {
		return nil, fmt.Errorf("%w: it ends behind %d of %d entries", ErrTOC, n, toc.Len())
	}
	for _, w := range b.wh {
		if err := b.addWhiteout(w); err != nil {
			return nil, entryError(toc, int(w.entry), err)
		}
	}
	if i, err := b.link(); err != nil {
		return nil, entryError(toc, i, err)
	}
	t := b.layout()
	if b.implied > 0 {
		t.implied = b.impliedPaths()
		for _, p := range t.implied {
			t.memory += int64(len(p)) + 16
		}
	}
	room.keep(t.memory)
	return t, nil
}

// buildError returns the error of an entry, which is to blame unless there is no memory.
func buildError(err error, i int, name string) error {
	if errors.Is(err, ErrMemory) {
		return err
	}
	return &EntryError{Entry: i, Name: name, Reason: err.Error()}
}

// entryError returns the error of an entry that has gone by.
func entryError(toc TOC, i int, err error) error {
	for k, e := range toc.Entries() {
		if k == i {
			return buildError(err, i, e.Name)
		}
	}
	return buildError(err, i, "")
}

// add enters entry i.
func (b *builder) add(i int, e *ztoc.Entry) error {
	dir, base, err := split(e.Name)
	if err != nil {
		return err
	}
	if err := b.check(e); err != nil {
		return err
	}
	if base == "" {
		if e.Type != ztoc.TypeDir {
			return errReason("the root is not a directory")
		}
		b.describe(0, i, e)
		return nil
	}
	parent, hidden, err := b.dir(dir)
	if err != nil || hidden {
		return err
	}
	if strings.HasPrefix(base, whPrefix) {
		return b.mark(i, e, parent, base)
	}
	switch e.Type {
	case ztoc.TypeDir:
		return b.addDir(i, e, parent, base)
	case ztoc.TypeHardlink:
		return b.addLink(i, e, parent, base)
	}
	return b.bind(parent, base, func() uint32 { return b.inode(i, e, kindFile) })
}

// mark enters a name that stands for something missing in the layers below.
func (b *builder) mark(i int, e *ztoc.Entry, parent uint32, base string) error {
	if base == whOpaque {
		b.inodes[b.names.list[parent].inode].opaque = true
		b.opaques++
		return nil
	}
	if strings.HasPrefix(base, whMeta) {
		return nil
	}
	gone := base[len(whPrefix):]
	if gone == "" || gone == "." || gone == ".." {
		return errReason("whiteout of no name")
	}
	w := whiteout{entry: int32(i), parent: parent, name: gone, file: node{mode: unix.S_IFCHR}} // of device 0:0
	w.file.setTime(e.ModTime)
	b.wh = append(b.wh, w)
	return nil
}

func (b *builder) addWhiteout(w whiteout) error {
	if b.inodes[b.names.list[w.parent].inode].kind != kindDir {
		return errReason("parent is not a directory")
	}
	if _, ok := b.names.find(w.parent, w.name); ok {
		return nil
	}
	return b.bind(w.parent, w.name, func() uint32 {
		return b.addInode(buildInode{file: w.file, entry: w.entry, kind: kindWhiteout})
	})
}

// addDir enters a directory. One that is there already keeps what is in it.
func (b *builder) addDir(i int, e *ztoc.Entry, parent uint32, base string) error {
	if n, ok := b.names.find(parent, base); ok {
		if in := b.names.list[n].inode; b.inodes[in].kind == kindDir {
			b.describe(in, i, e)
			return nil
		}
	}
	return b.bind(parent, base, func() uint32 { return b.inode(i, e, kindDir) })
}

// addLink enters a hard link: one more name of what its target is now or, if there
// is no such name yet, of what it will be in the end.
func (b *builder) addLink(i int, e *ztoc.Entry, parent uint32, base string) error {
	target, ok, err := b.find(e.Linkname)
	if err != nil {
		return err
	}
	if !ok {
		return b.bind(parent, base, func() uint32 { return b.inode(i, e, kindPending) })
	}
	n := b.names.list[target]
	if n.parent == parent && string(b.names.name(target)) == base {
		return errReason("hard link to itself")
	}
	if b.inodes[n.inode].kind == kindDir {
		return errReason("hard link to a directory")
	}
	in := n.inode
	b.inodes[in].file.setOwner(e) // what an extraction does last counts
	return b.bind(parent, base, func() uint32 { return in })
}

// impliedDir is a directory that no entry describes.
func impliedDir() buildInode {
	return buildInode{file: node{mode: unix.S_IFDIR | 0o755}, entry: -1, kind: kindDir}
}

// addInode adds a file.
func (b *builder) addInode(in buildInode) uint32 {
	b.inodes = append(b.inodes, in)
	return uint32(len(b.inodes) - 1)
}

// inode adds the file of entry i.
func (b *builder) inode(i int, e *ztoc.Entry, k kind) uint32 {
	in := b.addInode(buildInode{kind: k})
	b.describe(in, i, e)
	return in
}

// bind makes name in directory parent a name of the inode that get returns.
func (b *builder) bind(parent uint32, name string, get func() uint32) error {
	if n, ok := b.names.find(parent, name); ok {
		if b.names.list[n].kids > 0 {
			return errReason("replaces a directory that is not empty")
		}
		b.names.list[n].inode = get()
		return nil
	}
	if len(b.names.list) == maxNames {
		return errReason(fmt.Sprintf("more than %d names", maxNames))
	}
	size := 2 * int64(len(name)) // here and in the tree
	if len(b.names.list) > b.entries {
		size += buildSize // not an entry's
	}
	if err := b.room.take(size); err != nil {
		return err
	}
	b.names.add(parent, name, get())
	return nil
}

// dir returns the directory called path, making what is missing of it. Hidden says
// that it is not part of the tree.
func (b *builder) dir(path string) (n uint32, hidden bool, err error) {
	if path == b.prefix && b.inodes[b.names.list[b.prefixName].inode].kind == kindDir {
		return b.prefixName, false, nil
	}
	for rest := path; rest != ""; {
		var c string
		c, rest, err = next(rest)
		if err != nil {
			return 0, false, err
		}
		if c == "" {
			continue
		}
		if strings.HasPrefix(c, whMeta) {
			return 0, true, nil
		}
		if strings.HasPrefix(c, whPrefix) {
			return 0, false, errReason("below a whiteout")
		}
		child, ok := b.names.find(n, c)
		if !ok {
			if b.implied++; b.implied > maxImplied+maxImpliedPerEntry*b.entries {
				return 0, false, errReason(fmt.Sprintf("more than %d directories without an entry", b.implied-1))
			}
			child = uint32(len(b.names.list))
			if err := b.bind(n, c, func() uint32 { return b.addInode(impliedDir()) }); err != nil {
				return 0, false, err
			}
		}
		if b.inodes[b.names.list[child].inode].kind != kindDir {
			return 0, false, errReason("parent is not a directory")
		}
		n = child
	}
	b.prefix, b.prefixName = path, n
	return n, false, nil
}

// find returns what path names, without following symbolic links.
func (b *builder) find(path string) (n uint32, ok bool, err error) {
	if path == "" {
		return 0, false, errReason("hard link without a target")
	}
	for rest := path; rest != ""; {
		var c string
		c, rest, err = next(rest)
		if err != nil {
			return 0, false, err
		}
		if c == "" {
			continue
		}
		if n, ok = b.names.find(n, c); !ok {
			return 0, false, nil
		}
	}
	return n, true, nil
}

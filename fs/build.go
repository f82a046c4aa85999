// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"fmt"
	"iter"
	"strings"

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
)

// Names with a meaning in OCI layers.
const (
	whPrefix = ".wh."          // .wh.X says that X of the layers below is gone
	whMeta   = ".wh..wh."      // what a union file system of old kept for itself
	whOpaque = whMeta + ".opq" // nothing of the layers below is seen in this directory
	paxXattr = "SCHILY.xattr." // PAX records that are extended attributes
	trusted  = "trusted."      // extended attributes a layer has no business with
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

// buildName is a name on its way into the tree.
type buildName struct {
	name   string
	parent uint32 // index of the directory's name
	inode  uint32
	kids   uint32 // names below
}

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

type nameKey struct {
	parent uint32
	name   string
}

// builder makes a tree the way a tar extraction does: entry by entry, later ones
// replacing earlier ones of the same name. Name 0 and inode 0 are the root.
type builder struct {
	entries   int   // of the TOC
	size      int64 // uncompressed bytes of the layer
	userxattr bool  // overlayfs uses user.overlay.*

	names  []buildName
	inodes []buildInode
	index  map[nameKey]uint32
	wh     []whiteout
	text   strings.Builder // targets of links, keys and values of xattrs
	xattrs []xattr         // their strings in text
	// implied is the number of directories made for want of an entry.
	implied int
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

// newTree builds the tree of a layer with size uncompressed bytes.
func newTree(toc TOC, size int64, userxattr bool) (*tree, error) {
	n := min(toc.Len(), maxNames)
	b := &builder{
		entries:   n,
		size:      size,
		userxattr: userxattr,
		names:     make([]buildName, 1, n+1),
		inodes:    make([]buildInode, 1, n+1),
		index:     make(map[nameKey]uint32, n),
	}
	b.inodes[0] = impliedDir()
	n = 0
	for i, e := range toc.Entries() {
		if err := b.add(i, &e); err != nil {
			return nil, &EntryError{Entry: i, Name: e.Name, Reason: err.Error()}
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
	return b.layout()
}

// entryError returns the error of an entry that has gone by.
func entryError(toc TOC, i int, err error) error {
	for k, e := range toc.Entries() {
		if k == i {
			return &EntryError{Entry: i, Name: e.Name, Reason: err.Error()}
		}
	}
	return &EntryError{Entry: i, Reason: err.Error()}
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
		b.inodes[b.names[parent].inode].opaque = true
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
	if b.inodes[b.names[w.parent].inode].kind != kindDir {
		return errReason("parent is not a directory")
	}
	if _, ok := b.index[nameKey{w.parent, w.name}]; ok {
		return nil
	}
	return b.bind(w.parent, w.name, func() uint32 {
		return b.addInode(buildInode{file: w.file, entry: w.entry, kind: kindWhiteout})
	})
}

// addDir enters a directory. One that is there already keeps what is in it.
func (b *builder) addDir(i int, e *ztoc.Entry, parent uint32, base string) error {
	if n, ok := b.index[nameKey{parent, base}]; ok {
		if in := b.names[n].inode; b.inodes[in].kind == kindDir {
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
	n := &b.names[target]
	if n.parent == parent && n.name == base {
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
	key := nameKey{parent, name}
	if n, ok := b.index[key]; ok {
		if b.names[n].kids > 0 {
			return errReason("replaces a directory that is not empty")
		}
		b.names[n].inode = get()
		return nil
	}
	if len(b.names) == maxNames {
		return errReason(fmt.Sprintf("more than %d names", maxNames))
	}
	b.index[key] = uint32(len(b.names))
	b.names = append(b.names, buildName{name: name, parent: parent, inode: get()})
	b.names[parent].kids++
	return nil
}

// dir returns the directory called path, making what is missing of it. Hidden says
// that it is not part of the tree.
func (b *builder) dir(path string) (n uint32, hidden bool, err error) {
	if path == b.prefix && b.inodes[b.names[b.prefixName].inode].kind == kindDir {
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
		if strings.HasPrefix(c, whPrefix) {
			return 0, true, nil
		}
		child, ok := b.index[nameKey{n, c}]
		if !ok {
			if b.implied++; b.implied > maxImplied+maxImpliedPerEntry*b.entries {
				return 0, false, errReason(fmt.Sprintf("more than %d directories without an entry", b.implied-1))
			}
			child = uint32(len(b.names))
			if err := b.bind(n, c, func() uint32 { return b.addInode(impliedDir()) }); err != nil {
				return 0, false, err
			}
		}
		if b.inodes[b.names[child].inode].kind != kindDir {
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
		if n, ok = b.index[nameKey{n, c}]; !ok {
			return 0, false, nil
		}
	}
	return n, true, nil
}

// next cuts the first component off a path. Slashes and dots that mean nothing
// give the empty component.
func next(path string) (c, rest string, err error) {
	c, rest, _ = strings.Cut(path, "/")
	switch {
	case c == ".":
		return "", rest, nil
	case c == "..":
		return "", "", errReason("name leads upwards")
	case len(c) > 255:
		return "", "", errReason("name of more than 255 bytes")
	case strings.IndexByte(c, 0) >= 0:
		return "", "", errReason("name with a NUL")
	}
	return c, rest, nil
}

// split cuts a tar name into its directory and its last component, which is empty for the root.
func split(name string) (dir, base string, err error) {
	if name == "" {
		return "", "", errReason("empty name")
	}
	if len(name) > pathMax {
		return "", "", errReason(fmt.Sprintf("name of more than %d bytes", pathMax))
	}
	for {
		name = strings.TrimRight(name, "/")
		if !strings.HasSuffix(name, "/.") {
			break
		}
		name = name[:len(name)-2]
	}
	i := strings.LastIndexByte(name, '/') + 1
	base, _, err = next(name[i:])
	return name[:i], base, err
}

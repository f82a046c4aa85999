// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/seekoci/seekoci/ztoc"
)

// The kernel's limits.
const (
	pathMax      = 4096
	xattrNameMax = 255
	xattrSizeMax = 64 << 10
	xattrListMax = 64 << 10
	devMajorMax  = 1<<12 - 1
	devMinorMax  = 1<<20 - 1
)

// check checks what an entry says about its file, and takes the room for it.
func (b *builder) check(e *ztoc.Entry) error {
	if e.UID == math.MaxUint32 || e.GID == math.MaxUint32 {
		return errReason("owner is no id")
	}
	switch e.Type {
	case ztoc.TypeReg:
		if e.Size < 0 || e.Offset < 0 || e.Offset > b.size || e.Size > b.size-e.Offset {
			return errReason(fmt.Sprintf("bytes [%d,+%d) are not in the layer's %d", e.Offset, e.Size, b.size))
		}
	case ztoc.TypeSymlink:
		if e.Linkname == "" || len(e.Linkname) >= pathMax || strings.IndexByte(e.Linkname, 0) >= 0 {
			return errReason(fmt.Sprintf("symbolic link to %.300q", e.Linkname))
		}
	case ztoc.TypeChar, ztoc.TypeBlock:
		if e.Devmajor < 0 || e.Devmajor > devMajorMax || e.Devminor < 0 || e.Devminor > devMinorMax {
			return errReason(fmt.Sprintf("device %d:%d", e.Devmajor, e.Devminor))
		}
	case ztoc.TypeDir, ztoc.TypeHardlink, ztoc.TypeFifo:
	default:
		return errReason(fmt.Sprintf("entry type %d", e.Type))
	}
	list, text := 0, len(e.Linkname)
	for _, r := range e.PAX {
		key, ok := b.xattrKey(r.Key)
		if !ok {
			continue
		}
		if strings.HasPrefix(key, "system.") && !isACL(r.Value) || key == xattrCaps && !isCaps(r.Value) {
			return errReason(fmt.Sprintf("extended attribute %s that the kernel would not take", key))
		}
		list += len(key) + 1
		text += len(key) + len(r.Value)
		if key == "" || len(key) > xattrNameMax || len(r.Value) > xattrSizeMax || list > xattrListMax || strings.IndexByte(key, 0) >= 0 {
			return errReason(fmt.Sprintf("extended attribute %.300q of %d bytes", key, len(r.Value)))
		}
	}
	if len(b.text)+text > maxText {
		return errReason(fmt.Sprintf("link targets and extended attributes of more than %d bytes", maxText))
	}
	return b.room.take(2 * int64(text))
}

// xattrKey returns the name of the extended attribute in a PAX record, if the file gets it: no file
// system takes one without a name space that it knows. The attributes that steer overlayfs are ours
// to set: a layer that could set them would make directories appear elsewhere.
func (b *builder) xattrKey(pax string) (string, bool) {
	key, ok := strings.CutPrefix(pax, paxXattr)
	switch {
	case !ok || b.userxattr && strings.HasPrefix(key, userOvl):
		return "", false
	case strings.HasPrefix(key, "user."), strings.HasPrefix(key, "security."), key == aclAccess, key == aclDefault, key == "":
		return key, true
	}
	return "", false
}

// The access control lists of a file, and what is in one: a version, and entries.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
	aclVersion = 2
	aclHeader  = 4
	aclEntry   = 8
)

// isACL reports whether val can be an access control list. The kernel takes no other for one.
func isACL(val string) bool {
	return len(val) >= aclHeader && (len(val)-aclHeader)%aclEntry == 0 && val[:aclHeader] == string([]byte{aclVersion, 0, 0, 0})
}

// isCaps reports whether val can be the capabilities of a file, of version 2 or 3: the kernel takes no other.
func isCaps(val string) bool {
	const size2, size3 = 20, 24
	return len(val) == size2 && val[3] == 2 || len(val) == size3 && val[3] == 3
}

// link gives the hard links that came before their targets the targets' inodes.
// In the case of an error, i is the entry.
func (b *builder) link() (i int, err error) {
	to := make(map[uint32]uint32) // pending inode: its target, in the end
	var chain []uint32
	for in := range b.inodes {
		chain = chain[:0]
		in := uint32(in)
		for b.inodes[in].kind == kindPending {
			if t, ok := to[in]; ok {
				if t == in {
					return int(b.inodes[in].entry), errReason("hard links in a circle")
				}
				in = t
				break
			}
			to[in] = in // being looked at
			chain = append(chain, in)
			entry, name := int(b.inodes[in].entry), string(b.target(in))
			target, ok, err := b.find(name)
			if err == nil && !ok {
				err = errReason(fmt.Sprintf("hard link to %.300q, which is not in the layer", name))
			}
			if err != nil {
				return entry, err
			}
			in = b.names.list[target].inode
			if b.inodes[in].kind == kindDir {
				return entry, errReason("hard link to a directory")
			}
		}
		for _, c := range chain {
			to[c] = in
		}
	}
	for n := range b.names.list {
		if in, ok := to[b.names.list[n].inode]; ok {
			b.names.list[n].inode = in
		}
	}
	return 0, nil
}

// layout numbers the names and writes the tree down.
func (b *builder) layout() *tree {
	kids := b.kids()
	order := make([]uint32, 1, len(b.names.list)) // node to name, breadth first
	t := &tree{nodes: make([]node, len(b.names.list))}
	first := make([]uint32, len(b.inodes)) // inode to node, plus one
	var arena strings.Builder
	arena.Grow(len(b.names.text) + len(b.text) + b.opaques*len(opaqueTr+"y"))
	for i := 0; i < len(order); i++ {
		name := &b.names.list[order[i]]
		n := &t.nodes[i]
		n.name, n.nameLen = uint32(arena.Len()), name.len
		arena.Write(b.names.name(order[i]))
		in := name.inode
		if f := first[in]; f != 0 {
			n.flags, n.data = flagAlias, int64(f-1)
			t.nodes[f-1].nlink++
			continue
		}
		first[in] = uint32(i + 1)
		b.fill(t, &arena, uint32(i), in)
		if n.isDir() {
			below := kids.of(order[i])
			n.data, n.size = int64(len(order)), int64(len(below))
			for _, child := range below {
				t.nodes[len(order)].parent = uint32(i)
				order = append(order, child)
			}
			if i > 0 {
				t.nodes[n.parent].nlink++
			}
		}
	}
	t.arena = arena.String()
	t.memory = int64(cap(t.nodes))*int64(unsafe.Sizeof(node{})) + int64(arena.Cap()) + int64(cap(t.xattrs))*int64(unsafe.Sizeof(xattr{}))
	return t
}

// children is the names of each directory, sorted.
type children struct {
	start []uint32 // by name, and one more
	names []uint32
}

func (c *children) of(name uint32) []uint32 {
	return c.names[c.start[name]:c.start[name+1]]
}

// kids groups the names by directory.
func (b *builder) kids() *children {
	list := b.names.list
	c := &children{start: make([]uint32, len(list)+1), names: make([]uint32, len(list)-1)}
	for i := range list {
		c.start[i+1] = c.start[i] + list[i].kids
	}
	at := slices.Clone(c.start)
	for i := 1; i < len(list); i++ {
		p := list[i].parent
		c.names[at[p]] = uint32(i)
		at[p]++
	}
	for i := range list {
		if list[i].kids > 1 {
			slices.SortFunc(c.of(uint32(i)), func(x, y uint32) int { return bytes.Compare(b.names.name(x), b.names.name(y)) })
		}
	}
	return c
}

// describe makes inode in the file that entry i says it is.
func (b *builder) describe(in uint32, i int, e *ztoc.Entry) {
	f := node{mode: typeBits(e.Type)}
	f.setOwner(e)
	switch e.Type {
	case ztoc.TypeReg:
		f.data, f.size = e.Offset, e.Size
	case ztoc.TypeSymlink, ztoc.TypeHardlink:
		f.data, f.size = int64(len(b.text)), int64(len(e.Linkname))
		b.text = append(b.text, e.Linkname...)
	case ztoc.TypeChar, ztoc.TypeBlock:
		f.data = int64(e.Devminor&0xff | e.Devmajor<<8 | e.Devminor&^0xff<<12)
	}
	ino := &b.inodes[in]
	ino.file, ino.entry, ino.xattrs = f, int32(i), uint32(len(b.xattrs))
	for _, r := range e.PAX {
		if key, ok := b.xattrKey(r.Key); ok {
			b.xattrs = append(b.xattrs, xattr{node: in, key: uint32(len(b.text)), keyLen: uint32(len(key)), valLen: uint32(len(r.Value))})
			b.text = append(append(b.text, key...), r.Value...)
		}
	}
	ino.nxattr = uint32(len(b.xattrs)) - ino.xattrs
}

// target returns the target of the link in.
func (b *builder) target(in uint32) []byte {
	f := &b.inodes[in].file
	return b.text[f.data:][:f.size]
}

// setOwner sets what an extraction sets anew for each name of a file: its owner, mode and time.
func (n *node) setOwner(e *ztoc.Entry) {
	n.mode = n.mode&syscall.S_IFMT | uint16(e.Mode&0o7777)
	n.uid, n.gid = e.UID, e.GID
	n.setTime(e.ModTime)
}

// setTime sets the time of modification. One that 64 bits of nanoseconds from 1970 on do not reach
// is 1970.
func (n *node) setTime(t time.Time) {
	n.sec, n.nsec = 0, 0
	if !t.Before(time.Unix(0, 0)) && !t.After(time.Unix(0, math.MaxInt64)) {
		n.sec, n.nsec = t.Unix(), uint32(t.Nanosecond())
	}
}

// fill writes the file of an inode into node i, and its strings into the arena.
func (b *builder) fill(t *tree, arena *strings.Builder, i, in uint32) {
	ino := &b.inodes[in]
	n := ino.file
	n.name, n.nameLen, n.parent, n.nlink = t.nodes[i].name, t.nodes[i].nameLen, t.nodes[i].parent, 1
	if ino.kind == kindDir {
		n.nlink = 2
	}
	if n.mode&syscall.S_IFMT == syscall.S_IFLNK {
		n.mode = syscall.S_IFLNK | 0o777 // whatever the tar says, no symbolic link on Linux has another
		n.data = int64(arena.Len())
		arena.Write(b.target(in))
	}
	if ino.opaque {
		key := opaqueTr
		if b.userxattr {
			key = opaqueUs
		}
		t.xattrs = append(t.xattrs, xattr{node: i, key: uint32(arena.Len()), keyLen: uint32(len(key)), valLen: 1})
		arena.WriteString(key)
		arena.WriteByte('y')
	}
	for _, x := range b.xattrs[ino.xattrs:][:ino.nxattr] {
		own := b.text[x.key:][:x.keyLen+x.valLen]
		if privileged(&n, string(own[:x.keyLen])) {
			n.flags |= flagPrivileged
		}
		x.node, x.key = i, uint32(arena.Len())
		t.xattrs = append(t.xattrs, x)
		arena.Write(own)
	}
	if privileged(&n, "") {
		n.flags |= flagPrivileged
	}
	if ino.opaque || ino.nxattr > 0 {
		n.flags |= flagXattrs
	}
	t.nodes[i] = n
}

func typeBits(t ztoc.EntryType) uint16 {
	switch t {
	case ztoc.TypeDir:
		return syscall.S_IFDIR
	case ztoc.TypeSymlink:
		return syscall.S_IFLNK
	case ztoc.TypeChar:
		return syscall.S_IFCHR
	case ztoc.TypeBlock:
		return syscall.S_IFBLK
	case ztoc.TypeFifo:
		return syscall.S_IFIFO
	}
	return syscall.S_IFREG
}

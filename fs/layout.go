// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

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

// check checks what an entry says about its file.
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
	list := 0
	for _, r := range e.PAX {
		key, ok := b.xattrKey(r.Key)
		if !ok {
			continue
		}
		list += len(key) + 1
		if key == "" || len(key) > xattrNameMax || len(r.Value) > xattrSizeMax || list > xattrListMax || strings.IndexByte(key, 0) >= 0 {
			return errReason(fmt.Sprintf("extended attribute %.300q of %d bytes", key, len(r.Value)))
		}
	}
	return nil
}

// xattrKey returns the name of the extended attribute in a PAX record. The
// attributes that steer overlayfs are ours to set: a layer that could set them
// would make directories appear elsewhere.
func (b *builder) xattrKey(pax string) (string, bool) {
	key, ok := strings.CutPrefix(pax, paxXattr)
	if !ok || strings.HasPrefix(key, trusted) || b.userxattr && strings.HasPrefix(key, userOvl) {
		return "", false
	}
	return key, true
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
			entry := int(b.inodes[in].entry)
			target, ok, err := b.find(b.toc[entry].Linkname)
			if err == nil && !ok {
				err = errReason(fmt.Sprintf("hard link to %.300q, which is not in the layer", b.toc[entry].Linkname))
			}
			if err != nil {
				return entry, err
			}
			in = b.names[target].inode
			if b.inodes[in].kind == kindDir {
				return entry, errReason("hard link to a directory")
			}
		}
		for _, c := range chain {
			to[c] = in
		}
	}
	for n := range b.names {
		if in, ok := to[b.names[n].inode]; ok {
			b.names[n].inode = in
		}
	}
	return 0, nil
}

// layout numbers the names and writes the tree down.
func (b *builder) layout() (*tree, error) {
	kids := b.kids()
	order := make([]uint32, 1, len(b.names)) // node to name, breadth first
	t := &tree{nodes: make([]node, len(b.names))}
	first := make([]uint32, len(b.inodes)) // inode to node, plus one
	var arena strings.Builder
	for i := 0; i < len(order); i++ {
		name := &b.names[order[i]]
		n := &t.nodes[i]
		n.name, n.nameLen = uint32(arena.Len()), uint8(len(name.name))
		arena.WriteString(name.name)
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
	if arena.Len() > math.MaxUint32 {
		return nil, fmt.Errorf("%w: names of %d bytes", ErrTOC, arena.Len())
	}
	t.arena = arena.String()
	return t, nil
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
	c := &children{start: make([]uint32, len(b.names)+1), names: make([]uint32, len(b.names)-1)}
	for i := range b.names {
		c.start[i+1] = c.start[i] + b.names[i].kids
	}
	at := slices.Clone(c.start)
	for i := 1; i < len(b.names); i++ {
		p := b.names[i].parent
		c.names[at[p]] = uint32(i)
		at[p]++
	}
	for i := range b.names {
		if b.names[i].kids > 1 {
			slices.SortFunc(c.of(uint32(i)), func(x, y uint32) int { return cmp.Compare(b.names[x].name, b.names[y].name) })
		}
	}
	return c
}

// fill writes the file of an inode into node i.
func (b *builder) fill(t *tree, arena *strings.Builder, i, in uint32) {
	n := &t.nodes[i]
	ino := &b.inodes[in]
	n.nlink = 1
	if ino.kind == kindDir {
		n.nlink = 2
		n.mode = unix.S_IFDIR | 0o755
	}
	if ino.opaque {
		key := opaqueTr
		if b.userxattr {
			key = opaqueUs
		}
		t.addXattr(arena, i, key, "y")
	}
	if ino.entry < 0 {
		return
	}
	e := &b.toc[ino.entry]
	// What an extraction does last counts.
	last := e
	if ino.link != 0 {
		last = &b.toc[ino.link]
	}
	if !last.ModTime.Before(time.Unix(0, 0)) {
		n.sec, n.nsec = last.ModTime.Unix(), uint32(last.ModTime.Nanosecond())
	}
	if ino.kind == kindWhiteout {
		n.mode = unix.S_IFCHR // of device 0:0
		return
	}
	n.mode = typeBits(e.Type) | uint16(last.Mode&0o7777)
	n.uid, n.gid = last.UID, last.GID
	switch e.Type {
	case ztoc.TypeReg:
		n.data, n.size = e.Offset, e.Size
	case ztoc.TypeSymlink:
		n.data, n.size = int64(arena.Len()), int64(len(e.Linkname))
		arena.WriteString(e.Linkname)
	case ztoc.TypeChar, ztoc.TypeBlock:
		n.data = int64(e.Devminor&0xff | e.Devmajor<<8 | e.Devminor&^0xff<<12)
	}
	for _, r := range e.PAX {
		if key, ok := b.xattrKey(r.Key); ok {
			t.addXattr(arena, i, key, r.Value)
		}
	}
}

func (t *tree) addXattr(arena *strings.Builder, i uint32, key, value string) {
	t.nodes[i].flags |= flagXattrs
	t.xattrs = append(t.xattrs, xattr{
		node: i,
		key:  uint32(arena.Len()), keyLen: uint32(len(key)),
		val: uint32(arena.Len() + len(key)), valLen: uint32(len(value)),
	})
	arena.WriteString(key)
	arena.WriteString(value)
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

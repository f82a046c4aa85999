// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"slices"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// raw is the FUSE face of an FS: the kernel's requests.
//
// go-fuse answers what is not here with ENOSYS. Requests that would change
// something do not come, as the mount is read-only.
type raw struct {
	fuse.RawFileSystem
	f *FS
}

// String names the file system in go-fuse's debug output.
func (r *raw) String() string { return fsSource }

// ref is a file of a layer.
type ref struct {
	l *layer
	i uint32 // number in l.tree
}

func (x ref) node() *node { return &x.l.tree.nodes[x.i] }
func (x ref) id() uint64  { return uint64(x.l.slot)<<32 | uint64(x.i) }

// find returns the file with the given node id, which is not the root's. A node
// the kernel should not know any more is ESTALE.
func (r *raw) find(id uint64) (ref, fuse.Status) {
	x := ref{r.f.table.Load().slots[uint32(id>>32)], uint32(id)}
	if x.l == nil || int(x.i) >= len(x.l.tree.nodes) || x.node().flags&flagAlias != 0 {
		return ref{}, fuse.Status(unix.ESTALE)
	}
	return x, fuse.OK
}

// findDir is find for a directory.
func (r *raw) findDir(id uint64) (ref, fuse.Status) {
	x, st := r.find(id)
	if st.Ok() && !x.node().isDir() {
		return ref{}, fuse.ENOTDIR
	}
	return x, st
}

// attr fills in x's attributes.
func (x ref) attr(a *fuse.Attr) {
	x.l.tree.attr(x.i, a)
	a.Ino = x.id()
}

// entry fills in the reply to a lookup of x, which is one more reference on its layer.
func (x ref) entry(out *fuse.EntryOut) {
	x.l.lookups.Add(1)
	x.l.looked.Add(1)
	out.NodeId = x.id()
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	x.attr(&out.Attr)
}

// rootAttr fills in the root's attributes.
func (t *table) rootAttr(a *fuse.Attr) {
	a.Ino = fuse.FUSE_ROOT_ID
	a.Size = dirSize
	a.Blocks = dirSize / 512
	a.Blksize = 4096
	a.Mode = unix.S_IFDIR | 0o755
	a.Nlink = uint32(2 + len(t.names))
	a.SetTimes(&t.changed, &t.changed, &t.changed)
}

// Lookup answers for names in the root without a timeout, whether they are there or
// not, and for all others for good.
func (r *raw) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if h.NodeId == fuse.FUSE_ROOT_ID {
		l := r.f.table.Load().names[name]
		if l == nil {
			return fuse.ENOENT
		}
		ref{l, 0}.entry(out)
		out.SetEntryTimeout(0)
		return fuse.OK
	}
	d, st := r.findDir(h.NodeId)
	if !st.Ok() {
		return st
	}
	i, ok := d.l.tree.lookup(d.node(), name)
	if !ok {
		out.SetEntryTimeout(forever) // node id 0: the name is known to be missing
		return fuse.OK
	}
	ref{d.l, i}.entry(out)
	return fuse.OK
}

// Forget counts; see FS.release.
func (r *raw) Forget(id, n uint64) {
	l := r.f.table.Load().slots[uint32(id>>32)]
	if l != nil && l.lookups.Add(-int64(n)) <= 0 && !l.before {
		r.f.release(l)
	}
}

// GetAttr answers stat.
func (r *raw) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		r.f.table.Load().rootAttr(&out.Attr)
		return fuse.OK
	}
	x, st := r.find(in.NodeId)
	if !st.Ok() {
		return st
	}
	out.SetTimeout(forever)
	x.attr(&out.Attr)
	return fuse.OK
}

// Readlink returns the target of a symbolic link.
func (r *raw) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	if h.NodeId == fuse.FUSE_ROOT_ID {
		return nil, fuse.EINVAL
	}
	x, st := r.find(h.NodeId)
	if !st.Ok() {
		return nil, st
	}
	if x.node().mode&unix.S_IFMT != unix.S_IFLNK {
		return nil, fuse.EINVAL
	}
	target := x.l.tree.target(x.node())
	return unsafe.Slice(unsafe.StringData(target), len(target)), fuse.OK // go-fuse copies it into the reply
}

// Open tells the kernel to do without it, which also keeps cached pages.
func (r *raw) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

// OpenDir tells the kernel to do without it, which also caches listings. The root's
// are checked against its modification time.
func (r *raw) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

// Flush tells the kernel to do without it.
func (r *raw) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status {
	return fuse.ENOSYS
}

// Ioctl has none.
func (r *raw) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(unix.ENOTTY)
}

// StatFs says that there is no room.
func (r *raw) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 255
	return fuse.OK
}

// ReadDir lists a directory.
func (r *raw) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return r.list(in, func(e fuse.DirEntry, _ ref) bool { return out.AddDirEntry(e) })
}

// ReadDirPlus lists a directory with what a lookup of each name would have given.
func (r *raw) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	atRoot := in.NodeId == fuse.FUSE_ROOT_ID
	return r.list(in, func(e fuse.DirEntry, x ref) bool {
		eo := out.AddDirLookupEntry(e)
		if eo == nil {
			return false
		}
		if x.l != nil { // not "." or ".."
			x.entry(eo)
			if atRoot {
				eo.SetEntryTimeout(0)
			}
		}
		return true
	})
}

// list calls add for the entries of a directory from offset in.Offset on, until it
// returns false. The offset of an entry is its index plus one; "." and ".." are first.
func (r *raw) list(in *fuse.ReadIn, add func(fuse.DirEntry, ref) bool) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		r.listRoot(in.Offset, add)
		return fuse.OK
	}
	d, st := r.findDir(in.NodeId)
	if !st.Ok() {
		return st
	}
	up := uint64(fuse.FUSE_ROOT_ID)
	if d.i != 0 {
		up = ref{d.l, d.node().parent}.id()
	}
	if !dots(in.Offset, d.id(), up, add) {
		return fuse.OK
	}
	t := d.l.tree
	first, end := d.node().children()
	for k := max(in.Offset, 2); k-2 < uint64(end-first); k++ {
		c := first + uint32(k-2)
		x := ref{d.l, t.file(c)}
		e := fuse.DirEntry{Name: t.name(&t.nodes[c]), Ino: x.id(), Mode: uint32(x.node().mode), Off: k + 1}
		if !add(e, x) {
			break
		}
	}
	return fuse.OK
}

// listRoot lists the layers. What is attached or detached meanwhile may or may not
// be listed, as with any directory.
func (r *raw) listRoot(off uint64, add func(fuse.DirEntry, ref) bool) {
	t := r.f.table.Load()
	if !dots(off, fuse.FUSE_ROOT_ID, fuse.FUSE_ROOT_ID, add) {
		return
	}
	names := t.listed()
	for k := max(off, 2); k-2 < uint64(len(names)); k++ {
		x := ref{t.names[names[k-2]], 0}
		if !add(fuse.DirEntry{Name: x.l.name, Ino: x.id(), Mode: unix.S_IFDIR, Off: k + 1}, x) {
			return
		}
	}
}

// dots adds the entries "." and "..".
func dots(off, self, up uint64, add func(fuse.DirEntry, ref) bool) bool {
	if off == 0 && !add(fuse.DirEntry{Name: ".", Ino: self, Mode: unix.S_IFDIR, Off: 1}, ref{}) {
		return false
	}
	return off > 1 || add(fuse.DirEntry{Name: "..", Ino: up, Mode: unix.S_IFDIR, Off: 2}, ref{})
}

// GetXAttr returns an extended attribute, or its size for an empty dest.
func (r *raw) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, key string, dest []byte) (uint32, fuse.Status) {
	if h.NodeId == fuse.FUSE_ROOT_ID {
		return 0, fuse.ENODATA
	}
	x, st := r.find(h.NodeId)
	if !st.Ok() {
		return 0, st
	}
	t := x.l.tree
	xs := t.attrs(x.i)
	k := slices.IndexFunc(xs, func(a xattr) bool { return t.key(a) == key })
	if k < 0 {
		return 0, fuse.ENODATA
	}
	return give(dest, t.value(xs[k]))
}

// ListXAttr returns the names of the extended attributes, each with a NUL.
func (r *raw) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	if h.NodeId == fuse.FUSE_ROOT_ID {
		return 0, fuse.OK
	}
	x, st := r.find(h.NodeId)
	if !st.Ok() {
		return 0, st
	}
	var list []byte
	for _, a := range x.l.tree.attrs(x.i) {
		list = append(append(list, x.l.tree.key(a)...), 0)
	}
	return give(dest, string(list))
}

// give copies an extended attribute's value. ERANGE comes with the size needed;
// go-fuse makes a success of it where the caller has only asked for that.
func give(dest []byte, val string) (uint32, fuse.Status) {
	if len(val) > len(dest) {
		return uint32(len(val)), fuse.ERANGE
	}
	return uint32(copy(dest, val)), fuse.OK
}

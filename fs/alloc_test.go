// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"fmt"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/seekoci/seekoci/ztoc"
)

// TestNoAllocations holds that what the kernel asks most allocates nothing of ours.
func TestNoAllocations(t *testing.T) {
	toc := []ztoc.Entry{
		dir("d"),
		symlink("d/link", "../target"),
		{Name: "d/x", Type: ztoc.TypeReg, PAX: []ztoc.Record{{Key: "SCHILY.xattr.user.k", Value: "value"}}},
	}
	for i := range 200 {
		toc = append(toc, file(fmt.Sprintf("d/f%03d", i), int64(i)))
	}
	r := mustRaw(t, toc)
	tr := r.f.table.Load().slots[5].tree
	d, _ := tr.lookup(&tr.nodes[0], "d")
	node := func(name string) *fuse.InHeader {
		i, ok := tr.lookup(&tr.nodes[d], name)
		if !ok {
			t.Fatal(name)
		}
		return node5(uint64(i))
	}
	var (
		in    = &fuse.ReadIn{InHeader: *node5(uint64(d))}
		attr  = &fuse.GetAttrIn{InHeader: *node("f100")}
		entry fuse.EntryOut
		out   fuse.AttrOut
		dirH  = node5(uint64(d))
		fileH = node("f100")
		linkH = node("link")
		xH    = node("x")
		buf   = make([]byte, 64<<10)
		list  = fuse.NewDirEntryList(buf, 0)
	)
	for name, f := range map[string]func() fuse.Status{
		"LOOKUP":            func() fuse.Status { return r.Lookup(nil, dirH, "f123", &entry) },
		"LOOKUP of nothing": func() fuse.Status { return r.Lookup(nil, dirH, "nothing", &entry) },
		"GETATTR":           func() fuse.Status { return r.GetAttr(nil, attr, &out) },
		"READLINK": func() fuse.Status {
			p, st := r.Readlink(nil, linkH)
			if string(p) != "../target" {
				return fuse.EIO
			}
			return st
		},
		"READDIR": func() fuse.Status {
			*list = *fuse.NewDirEntryList(buf, 0)
			return r.ReadDir(nil, in, list)
		},
		"READDIRPLUS": func() fuse.Status {
			*list = *fuse.NewDirEntryList(buf, 0)
			return r.ReadDirPlus(nil, in, list)
		},
		"GETXATTR": func() fuse.Status {
			_, st := r.GetXAttr(nil, xH, "user.k", buf)
			return st
		},
		"GETXATTR of nothing": func() fuse.Status {
			if _, st := r.GetXAttr(nil, fileH, "security.capability", buf); st != fuse.ENODATA {
				return fuse.EIO
			}
			_, st := r.GetXAttr(nil, xH, "security.capability", buf)
			return st &^ fuse.ENODATA
		},
		"FORGET": func() fuse.Status { r.Forget(fileH.NodeId, 0); return fuse.OK },
	} {
		var st fuse.Status
		n := testing.AllocsPerRun(100, func() { st |= f() })
		if n != 0 || st != fuse.OK {
			t.Errorf("%s: %v allocations, %v", name, n, st)
		}
	}
	if size := unsafe.Sizeof(tr.nodes[0]); size > 56 {
		t.Errorf("a file takes %d bytes", size)
	}
}

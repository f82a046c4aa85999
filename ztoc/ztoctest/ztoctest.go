// SPDX-License-Identifier: Apache-2.0

// Package ztoctest makes layers for tests: deterministic trees with one of
// everything a layer can hold, tar archives of them, and the gzip encoders that
// layers in the wild come from.
//
// [Files] returns a tree, [Tar] its archive, and each [Encoder] of [Encoders]
// compresses it in another way:
//
//	archive, err := ztoctest.Tar(ztoctest.Files(1, 100), ztoctest.TarOptions{})
//	for _, e := range ztoctest.Encoders() {
//		if !e.Available() {
//			continue // a program that is not installed here
//		}
//		layer, err := e.Encode(archive)
//	}
//
// # Limits
//
// Everything is in memory: meant for layers of at most some hundred MiB.
//
// # Decisions
//
//   - The tree is a function of its arguments alone: tests may pin digests of it.
//   - External encoders are run when they are on PATH and skipped otherwise; the
//     in-process ones alone produce stored, fixed and dynamic blocks, empty blocks,
//     many members and every optional header field.
package ztoctest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Paths of entries that tests like to look at; all are in every tree of [Files].
const (
	Text       = "usr/share/text"          // regular, compressible, several 64 KiB spans
	Random     = "usr/lib/random.bin"      // regular, incompressible
	Zeros      = "var/zeros"               // regular, one run of zeros
	Mixed      = "usr/bin/mixed"           // regular, zero runs between random and text, 0755
	Empty      = "etc/empty"               // regular, no data
	Capability = "usr/bin/ping"            // regular with security.capability and user xattrs
	Hardlink   = "usr/bin/mixed-link"      // hard link to Mixed
	Symlink    = "usr/bin/mixed-symlink"   // symbolic link to mixed
	Opaque     = "srv/opaque/.wh..wh..opq" // opaque marker of srv/opaque
	Whiteout   = "srv/.wh.gone"            // whiteout of srv/gone
)

// File is one entry of a tree: its tar header and, for regular files, its data.
// Header.Size is set by [Tar].
type File struct {
	tar.Header
	Data []byte
}

// Files returns a tree with one of everything, about 1.3 MiB of it, and n small
// regular files more. Equal arguments give equal trees.
func Files(seed uint64, n int) []File {
	r := rand.New(rand.NewPCG(seed, 0))
	var t tree
	t.dirs()
	t.regular(r)
	t.links()
	t.special()
	t.whiteouts()
	for i := range n {
		name := fmt.Sprintf("opt/many/%02x/file-%05d", i%256, i)
		t.add(File{Header: tar.Header{Name: name, Mode: 0o644, Uid: i % 3, ModTime: stamp(i)}, Data: text(r, r.IntN(2000))})
	}
	return t.files
}

// Big returns a regular file of size bytes in which compressible text,
// incompressible bytes and zero runs take turns.
func Big(seed uint64, name string, size int) File {
	r := rand.New(rand.NewPCG(seed, 1))
	return File{Header: tar.Header{Name: name, Mode: 0o644, ModTime: stamp(7)}, Data: mixed(r, size)}
}

// TarOptions configures [Tar].
type TarOptions struct {
	Prefix  string // in front of every name, such as "./"; "" for none
	Padding int    // zero bytes behind the end-of-archive marker; 0 for none
}

// Tar returns the archive of files, in their order.
func Tar(files []File, opts TarOptions) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		hdr := f.Header
		hdr.Name = opts.Prefix + hdr.Name
		if hdr.Typeflag == 0 {
			hdr.Typeflag = tar.TypeReg
		}
		if hdr.Typeflag == tar.TypeLink {
			hdr.Linkname = opts.Prefix + hdr.Linkname
		}
		hdr.Size = int64(len(f.Data))
		if err := w.WriteHeader(&hdr); err != nil {
			return nil, fmt.Errorf("write header of %q: %w", hdr.Name, err)
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, fmt.Errorf("write data of %q: %w", hdr.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("close archive: %w", err)
	}
	buf.Write(make([]byte, opts.Padding))
	return buf.Bytes(), nil
}

// tree collects the entries of Files.
type tree struct {
	files []File
}

func (t *tree) add(f File) { t.files = append(t.files, f) }

func (t *tree) dirs() {
	for i, d := range []struct {
		name string
		mode int64
		uid  int
	}{
		{"etc/", 0o755, 0}, {"usr/", 0o755, 0}, {"usr/bin/", 0o755, 0}, {"usr/lib/", 0o755, 0},
		{"usr/share/", 0o755, 0}, {"var/", 0o755, 0}, {"dev/", 0o755, 0}, {"srv/", 0o2750, 1000},
		{"tmp/", 0o1777, 0}, {"root/", 0o700, 0}, {"home/", 0o755, 0}, {"home/user/", 0o710, 4000000},
		{"srv/opaque/", 0o755, 33}, {"empty dir/", 0o711, 65534},
	} {
		t.add(File{Header: tar.Header{Typeflag: tar.TypeDir, Name: d.name, Mode: d.mode, Uid: d.uid, Gid: d.uid, ModTime: stamp(i)}})
	}
}

func (t *tree) regular(r *rand.Rand) {
	reg := func(name string, mode int64, data []byte) {
		t.add(File{Header: tar.Header{Name: name, Mode: mode, Uname: "root", Gname: "root", ModTime: stamp(len(name))}, Data: data})
	}
	reg(Empty, 0o600, nil)
	reg("etc/one", 0o644, []byte{'1'})
	reg("etc/hostname", 0o644, []byte("seekoci\n"))
	reg(Text, 0o644, text(r, 400<<10))
	reg(Random, 0o644, random(r, 300<<10))
	reg(Zeros, 0o644, make([]byte, 256<<10))
	reg(Mixed, 0o4755, mixed(r, 300<<10))
	reg("etc/block", 0o644, text(r, 512))   // exactly one tar block
	reg("etc/block+1", 0o644, text(r, 513)) // one byte more
	reg("home/user/ünïcode ☃", 0o644, []byte("name beyond ASCII\n"))
	reg("home/user/.wh", 0o644, []byte("no whiteout\n"))
	long := strings.Repeat("long-directory-name/", 12)
	t.add(File{Header: tar.Header{Format: tar.FormatPAX, Name: "home/pax/" + long + "file", Mode: 0o644, ModTime: stamp(3)}, Data: text(r, 3000)})
	t.add(File{Header: tar.Header{Format: tar.FormatGNU, Name: "home/gnu/" + long + "file", Mode: 0o644, ModTime: stamp(4)}, Data: text(r, 3000)})
	t.add(File{Header: tar.Header{Format: tar.FormatPAX, Name: "home/nanoseconds", Mode: 0o644,
		ModTime: time.Date(2024, 2, 29, 23, 59, 59, 123456789, time.UTC)}, Data: []byte("nanoseconds\n")})
	t.add(File{Header: tar.Header{Format: tar.FormatPAX, Name: "home/before-1970", Mode: 0o644,
		ModTime: time.Date(1969, 12, 31, 23, 59, 58, 500000000, time.UTC)}, Data: []byte("old\n")})
	t.add(File{Header: tar.Header{Format: tar.FormatPAX, Name: Capability, Mode: 0o755, ModTime: stamp(5), PAXRecords: map[string]string{
		// cap_net_raw=ep, revision 2.
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"SCHILY.xattr.user.comment":        "one attribute more",
		"SCHILY.xattr.user.empty":          "\x00",
	}}, Data: mixed(r, 40<<10)})
}

func (t *tree) links() {
	long := strings.Repeat("target/", 20)
	for i, l := range []tar.Header{
		{Typeflag: tar.TypeLink, Name: Hardlink, Linkname: Mixed, Mode: 0o4755},
		{Typeflag: tar.TypeLink, Name: "usr/bin/mixed-link-2", Linkname: Mixed, Mode: 0o4755},
		{Typeflag: tar.TypeSymlink, Name: Symlink, Linkname: "mixed", Mode: 0o777},
		{Typeflag: tar.TypeSymlink, Name: "usr/bin/absolute", Linkname: "/usr/bin/mixed", Mode: 0o777},
		{Typeflag: tar.TypeSymlink, Name: "usr/bin/dangling", Linkname: "../nowhere", Mode: 0o777},
		{Typeflag: tar.TypeSymlink, Name: "usr/bin/long-pax", Linkname: long, Mode: 0o777, Format: tar.FormatPAX},
		{Typeflag: tar.TypeSymlink, Name: "usr/bin/long-gnu", Linkname: long, Mode: 0o777, Format: tar.FormatGNU},
	} {
		l.ModTime = stamp(100 + i)
		t.add(File{Header: l})
	}
}

func (t *tree) special() {
	for i, d := range []tar.Header{
		{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3},
		{Typeflag: tar.TypeBlock, Name: "dev/loop0", Mode: 0o660, Gid: 6, Devmajor: 7, Devminor: 0},
		{Typeflag: tar.TypeChar, Name: "dev/big", Mode: 0o600, Devmajor: 4000, Devminor: 0o7777},
		{Typeflag: tar.TypeFifo, Name: "dev/fifo", Mode: 0o622, Uid: 10, Gid: 20},
	} {
		d.ModTime = stamp(200 + i)
		t.add(File{Header: d})
	}
}

func (t *tree) whiteouts() {
	for i, name := range []string{Opaque, Whiteout} {
		t.add(File{Header: tar.Header{Name: name, ModTime: stamp(300 + i)}})
	}
	t.add(File{Header: tar.Header{Name: "srv/opaque/new", Mode: 0o640, Uid: 33, Gid: 33, ModTime: stamp(310)}, Data: []byte("only this\n")})
}

// stamp returns the i-th of a row of whole-second times.
func stamp(i int) time.Time { return time.Unix(1700000000+int64(i)*86400, 0).UTC() }

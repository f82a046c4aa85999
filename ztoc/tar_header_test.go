// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

// walkTar is walk with archive/tar alone.
func walkTar(s *stream, f func(e *Entry) error) error {
	var next int64
	r := tar.NewReader(s)
	for {
		hdr, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if s.err != nil && s.err != io.EOF {
			return s.err
		}
		if err != nil && s.off < next {
			return &FormatError{Field: "tar data", Off: s.off, Err: err}
		}
		if err != nil {
			return &FormatError{Field: "tar header", Off: next, Err: err}
		}
		e, err := entryOf(hdr, s.off)
		if err != nil {
			return fmt.Errorf("tar entry %q at offset %d: %w", clip(hdr.Name), next, err)
		}
		if err := f(&e); err != nil {
			return err
		}
		next = align(e.Offset + e.Size)
	}
}

// walked is what a walk comes to.
type walked struct {
	entries []Entry
	off     int64
	err     string
}

// walkAll walks an archive that comes in pieces of n bytes and ends with end.
func walkAll(walk func(*stream, func(*Entry) error) error, archive []byte, n int, end error) walked {
	var w walked
	s := &stream{next: func() ([]byte, error) {
		if len(archive) == 0 {
			return nil, end
		}
		p := archive[:min(n, len(archive))]
		archive = archive[len(p):]
		return p, nil
	}}
	err := walk(s, func(e *Entry) error {
		w.entries = append(w.entries, *e)
		return nil
	})
	w.err, w.off = fmt.Sprint(err), s.off
	return w
}

var errFault = errors.New("fault of the layer")

// sameWalk compares walk with archive/tar.
func sameWalk(t *testing.T, archive []byte, n int) {
	t.Helper()
	for _, end := range []error{io.EOF, errFault} {
		got, want := walkAll(walk, archive, n, end), walkAll(walkTar, archive, n, end)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("in pieces of %d, with %v behind:\n%+v\nis not\n%+v", n, end, got, want)
		}
	}
}

// sealAll writes the checksums of all blocks that have the magic of a header.
func sealAll(archive []byte) {
	for ; len(archive) >= tarBlock; archive = archive[tarBlock:] {
		if p := archive[:tarBlock]; string(p[tarMagic:tarMagic+5]) == "ustar" {
			copy(p[tarSum:], fmt.Sprintf("%06o\x00 ", headerSum((*[tarBlock]byte)(p))))
		}
	}
}

// tarOf has an entry of each type, and forms that are not plain.
func tarOf(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	when := time.Unix(1700000000, 0)
	for _, h := range []tar.Header{
		{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: when},
		{Name: "dir/file", Typeflag: tar.TypeReg, Size: 700, Mode: 0o4644, Uid: 1000, Gid: 2097151, Uname: "user", Gname: "group", ModTime: when},
		{Name: strings.Repeat("long/", 30) + "name", Typeflag: tar.TypeReg, ModTime: when, Format: tar.FormatUSTAR},
		{Name: strings.Repeat("long", 60), Typeflag: tar.TypeReg, Size: 512, ModTime: when, Format: tar.FormatGNU},
		{Name: "pax", Typeflag: tar.TypeReg, Size: 1, ModTime: when, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}},
		{Name: "link", Linkname: "dir/file", Typeflag: tar.TypeLink, ModTime: when},
		{Name: "symlink", Linkname: "/dir/file", Typeflag: tar.TypeSymlink, ModTime: when},
		{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, ModTime: when},
		{Name: "fifo", Typeflag: tar.TypeFifo, ModTime: when},
		{Name: "gnu", Typeflag: tar.TypeReg, Size: 9, Mode: 0o644, Uname: "user", ModTime: when, Format: tar.FormatGNU},
		{Name: "gnu times", Typeflag: tar.TypeReg, ModTime: when, AccessTime: when, Format: tar.FormatGNU},
		{Name: "times", Typeflag: tar.TypeReg, Size: 5, ModTime: when.Add(12345), AccessTime: when.Add(1e8), ChangeTime: when, Format: tar.FormatPAX},
		{Name: strings.Repeat("long/", 50) + "näme", Uname: "üser", Typeflag: tar.TypeReg, Size: 600, ModTime: when, Uid: 1 << 24},
		{Name: "plain pax", Linkname: strings.Repeat("target", 40), Typeflag: tar.TypeSymlink, ModTime: when, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02", "SCHILY.xattr.user.b": strings.Repeat("b", 600), "comment": "c",
		}},
		{Name: "last", Typeflag: tar.TypeReg, Size: 3, Mode: 0o644, ModTime: when},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestPlainHeader holds that headers are read as archive/tar does: all that can be
// made of those of an archive by changing some bytes, and of parts of the archive.
func TestPlainHeader(t *testing.T) {
	archive := tarOf(t)
	for n := 0; n < len(archive); n += 5 { // to all places within a header
		sameWalk(t, archive[:n], 1<<10)
	}
	plain, pax := 0, 0
	for i := 0; i < len(archive); i += tarBlock {
		if plainHeader((*[tarBlock]byte)(archive[i:]), new(Entry)) {
			plain++
		}
		if paxEntry(archive[i:], new(Entry)) > 0 {
			pax++
		}
	}
	if plain != 12 || pax != 3 {
		t.Errorf("%d plain headers, %d behind PAX records", plain, pax)
	}
	r := rand.New(rand.NewPCG(5, 5))
	const odd = "\x00\x00\x00 018/.7\x80\xff\xc3\xa9ustar-xgLKS"
	for range 8000 {
		p := bytes.Clone(archive)
		for range 1 + r.IntN(3) {
			at := r.IntN(len(p)/tarBlock) * tarBlock
			if string(p[at+tarMagic:at+tarMagic+5]) != "ustar" {
				continue
			}
			p[at+r.IntN(tarBlock)] = odd[r.IntN(len(odd))]
		}
		if r.IntN(8) > 0 {
			sealAll(p)
		}
		sameWalk(t, p, 1+r.IntN(4000))
	}
}

// TestPAXEntry does so with records of all kinds, as they are and damaged.
func TestPAXEntry(t *testing.T) {
	record := func(key, value string) string {
		n := len(key) + len(value) + 3
		for len(fmt.Sprint(n))+len(key)+len(value)+3 != n {
			n++
		}
		return fmt.Sprintf("%d %s=%s\n", n, key, value)
	}
	keys := []string{"path", "linkpath", "uname", "gname", "mtime", "atime", "ctime", "uid", "gid", "size", "comment", "SCHILY.xattr.user.x", "GNU.sparse.major", "a\x00b", ""}
	values := []string{
		"a/b", "ü", "1700000000.123456789", "1700000000", "1.", ".5", "-1", "-1.5", "+3", "12345678901234567890", "99999999999.0",
		"1.0000000001", "0", "", "nul\x00", "x=y\n", "1x", "1.x", "01.10", strings.Repeat("v", 3000),
	}
	r := rand.New(rand.NewPCG(9, 9))
	fast := 0
	for range 10000 {
		var b strings.Builder
		for range r.IntN(4) {
			b.WriteString(record(keys[r.IntN(len(keys))], values[r.IntN(len(values))]))
		}
		body := []byte(b.String())
		if len(body) > 0 && r.IntN(3) == 0 {
			body[r.IntN(len(body))] = "0 =\n\x009"[r.IntN(6)]
		}
		archive := append(tarHeader(paxType, "pax", len(body)), body...)
		archive = append(archive, make([]byte, int(align(int64(len(body))))-len(body))...)
		archive = append(archive, tarHeader("0125xL"[r.IntN(6)], "name", r.IntN(2)*700)...)
		archive = append(archive, make([]byte, 1024)...)
		archive = append(archive, tarHeader('0', "next", 0)...)
		if paxEntry(archive, new(Entry)) > 0 {
			fast++
		}
		sameWalk(t, append(archive, make([]byte, 1024)...), 1+r.IntN(9000))
	}
	for _, n := range []int{maxPlainRecords, maxPlainRecords + 1, 50000} { // the last would take long, one by one
		var b strings.Builder
		for i := range n {
			b.WriteString(record(fmt.Sprintf("%06d", n-i), "x"))
		}
		body := b.String()
		archive := append(tarHeader(paxType, "pax", len(body)), body...)
		archive = append(archive, make([]byte, int(align(int64(len(body))))-len(body))...)
		archive = append(archive, tarHeader('0', "name", 0)...)
		if got := paxEntry(archive, new(Entry)) > 0; got != (n <= maxPlainRecords) {
			t.Errorf("%d records: %v", n, got)
		}
		sameWalk(t, append(archive, make([]byte, 1024)...), 1<<20)
	}
	if fast < 1000 {
		t.Errorf("%d entries read without archive/tar", fast)
	}
}

// tarHeader is the header of an entry.
func tarHeader(typ byte, name string, size int) []byte {
	p := make([]byte, tarBlock)
	copy(p, name)
	copy(p[tarMode:], "0000644\x000000000\x000000000\x00")
	copy(p[tarSize:], fmt.Sprintf("%011o\x0014524736400\x00", size))
	p[tarType] = typ
	copy(p[tarMagic:], "ustar\x0000")
	copy(p[tarDevmajor:], "0000000\x000000000\x00")
	sealAll(p)
	return p
}

// FuzzWalk compares walk with archive/tar.
func FuzzWalk(f *testing.F) {
	archive := tarOf(f)
	f.Add(archive, uint16(1<<15), false)
	f.Add(archive[:len(archive)-1100], uint16(700), true)
	f.Fuzz(func(t *testing.T, archive []byte, n uint16, seal bool) {
		if seal {
			archive = bytes.Clone(archive)
			sealAll(archive)
		}
		sameWalk(t, archive, int(n)+1)
	})
}

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
	for n := range len(archive) {
		sameWalk(t, archive[:n], 1<<10)
	}
	plain := 0
	for i := 0; i < len(archive); i += tarBlock {
		if plainHeader((*[tarBlock]byte)(archive[i:]), new(Entry)) {
			plain++
		}
	}
	if plain != 7 {
		t.Errorf("%d plain headers", plain)
	}
	r := rand.New(rand.NewPCG(5, 5))
	const odd = "\x00\x00\x00 018/.7\x80\xff\xc3\xa9ustar-xgLKS"
	for range 20000 {
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

// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// seal writes the checksum of a tar header, the first block of p.
func seal(p []byte) {
	copy(p[148:156], "        ")
	sum := 0
	for _, b := range p[:512] {
		sum += int(b)
	}
	copy(p[148:], fmt.Sprintf("%06o\x00 ", sum))
}

// rawEntry returns a header of type typ and its data: what archive/tar does not write.
func rawEntry(typ byte, name, data string) []byte {
	p := make([]byte, 512, 1024+len(data))
	copy(p, name)
	copy(p[100:], "0000644\x000000000\x000000000\x00")
	copy(p[124:], fmt.Sprintf("%011o\x0000000000000\x00", len(data)))
	p[156] = typ
	copy(p[257:], "ustar\x0000")
	seal(p)
	p = append(p, data...)
	return append(p, make([]byte, -len(data)&511)...)
}

// record returns a PAX record.
func record(k, v string) string {
	n := len(k) + len(v) + len(" =\n")
	n += len(strconv.Itoa(n + len(strconv.Itoa(n))))
	return fmt.Sprintf("%d %s=%s\n", n, k, v)
}

// TestHeaderOnlySize has a hard link whose header gives a size: it has no data.
func TestHeaderOnlySize(t *testing.T) {
	archive := mustTar(t, []ztoctest.File{
		{Header: tar.Header{Name: "a", Format: tar.FormatUSTAR}, Data: []byte("data")},
		{Header: tar.Header{Name: "b", Typeflag: tar.TypeLink, Linkname: "a", Format: tar.FormatUSTAR}},
		{Header: tar.Header{Name: "c", Format: tar.FormatUSTAR}, Data: []byte("data")},
	}, ztoctest.TarOptions{})
	h := archive[1024:1536]
	copy(h[124:], "00000000004\x00")
	seal(h)
	z := mustBuild(t, archive, ztoc.BuildOptions{})
	if len(z.TOC) != 3 || z.TOC[1].Size != 0 || z.TOC[2].Name != "c" {
		t.Fatalf("TOC %+v", z.TOC)
	}
	mustUnmarshal(t, mustMarshal(t, z))
}

// TestSparse refuses a PAX sparse file: its data are not where a zTOC says.
func TestSparse(t *testing.T) {
	data := "1\n4096\n4\n"
	data += strings.Repeat("\x00", 512-len(data)) + "data"
	var buf bytes.Buffer
	buf.Write(rawEntry('x', "pax", record("GNU.sparse.major", "1")+record("GNU.sparse.minor", "0")+
		record("GNU.sparse.name", "s")+record("GNU.sparse.realsize", "8192")))
	buf.Write(rawEntry('0', "s", data))
	buf.Write(make([]byte, 1024))
	if _, err := ztoc.Build(t.Context(), &buf, ztoc.BuildOptions{}); !errors.Is(err, ztoc.ErrUnsupported) || !strings.Contains(err.Error(), "sparse") {
		t.Errorf("error %v, want an unsupported sparse file", err)
	}
}

// TestTarErrors holds that an error says where in the tar the fault is.
func TestTarErrors(t *testing.T) {
	archive := mustTar(t, []ztoctest.File{
		{Header: tar.Header{Name: "a", Format: tar.FormatUSTAR}, Data: make([]byte, 1500)},
		{Header: tar.Header{Name: "b", Uid: 1 << 33, Format: tar.FormatGNU}},
	}, ztoctest.TarOptions{})
	broken := bytes.Clone(archive)
	broken[2048] ^= 1
	for name, tt := range map[string]struct {
		tar  []byte
		text string
	}{
		"first header":      {archive[:300], "malformed layer at offset 0: neither gzip nor tar"},
		"data cut":          {archive[:1000], "malformed tar data at offset 1000: unexpected EOF"},
		"second header cut": {archive[:2100], "malformed tar header at offset 2048: unexpected EOF"},
		"second header":     {broken, "malformed tar header at offset 2048: archive/tar: invalid tar header"},
		"second entry":      {archive, `tar entry "b" at offset 2048: unsupported owner`},
	} {
		_, err := ztoc.Build(t.Context(), bytes.NewReader(tt.tar), ztoc.BuildOptions{})
		if err == nil || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: error %v, want %q", name, err, tt.text)
		}
	}
}

// TestManyRecords has PAX records that take as few bytes on the wire as can be, and nothing else to speak of:
// Unmarshal must not think that they share some.
func TestManyRecords(t *testing.T) {
	var files []ztoctest.File
	for i := range 200 {
		pax := make(map[string]string)
		for j := range 100 {
			pax[fmt.Sprintf("SCHILY.xattr.user.%05d", j)] = "abc" // lengths that need no padding
		}
		files = append(files, ztoctest.File{Header: tar.Header{Name: fmt.Sprintf("%03d", i), PAXRecords: pax}})
	}
	archive := mustTar(t, files, ztoctest.TarOptions{})
	z := mustUnmarshal(t, mustMarshal(t, mustBuild(t, archive, ztoc.BuildOptions{})))
	checkTOC(t, z.TOC, archive)
}

// TestPAXMemory has entries of which little is kept, from PAX headers of 1 MiB.
func TestPAXMemory(t *testing.T) {
	const entries = 24
	one := rawEntry('x', "pax", record("k", strings.Repeat("v", 1000<<10))+record("k", "v")+record("path", "p"))
	one = append(one, rawEntry('0', "f", "")...)
	var layer []io.Reader // in no one piece, which would be freed meanwhile
	for range entries {
		layer = append(layer, bytes.NewReader(one))
	}
	before := live()
	z, err := ztoc.Build(t.Context(), io.MultiReader(layer...), ztoc.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if grown := live() - before; grown > entries<<20/4 {
		t.Errorf("%d bytes in use for %d small entries", grown, entries)
	}
	if len(z.TOC) != entries || z.TOC[0].Name != "p" || z.TOC[0].PAX[0] != (ztoc.Record{Key: "k", Value: "v"}) {
		t.Errorf("%d entries, the first %+v", len(z.TOC), z.TOC[0])
	}
}

// live returns how many bytes of the heap are in use.
func live() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// oddEntries is the number of entries of oddHeaders, of which two have times without wire form.
const oddEntries = 18

// oddHeaders returns an archive as other writers than archive/tar make it.
func oddHeaders() []byte {
	odd := func(typ byte, name string, change func(h []byte)) []byte {
		p := rawEntry(typ, name, "")
		change(p)
		seal(p)
		return p
	}
	size := func(h []byte) { copy(h[124:], "00000010000\x00") }
	v7 := func(h []byte) { clear(h[257:]) }
	long := strings.Repeat("long/", 60)
	var buf bytes.Buffer
	for _, p := range [][]byte{
		odd(0, "v7/", v7), odd(0, "v7/file", v7), odd(0, "old/", func([]byte) {}), // the slash alone makes directories
		odd('5', "dir-with-size/", size), odd('3', "char-with-size", size), odd('6', "fifo-with-size", size),
		odd('2', "link-with-size", func(h []byte) { size(h); copy(h[157:], "to") }),
		odd('5', "negative-size/", func(h []byte) { copy(h[124:], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff") }),
		odd('0', "base-256", func(h []byte) {
			copy(h[108:], "\x80\x00\x00\x00\xff\xff\xff\xff")                 // uid 1<<32-1
			copy(h[136:], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe") // mtime -2
		}),
		odd('0', "year-0", func(h []byte) { copy(h[136:], "\xff\xff\xff\xff\xff\xff\xf0\x00\x00\x00\x00\x00") }),
		odd('0', "caf\xe9", func([]byte) {}), odd('0', "twice", func([]byte) {}), odd('0', "twice", func([]byte) {}),
		odd('0', "mode", func(h []byte) { copy(h[100:], "7777777\x00") }),
		odd('4', "dev", func(h []byte) { copy(h[329:], "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff") }),
		rawEntry('x', "pax", record("k", "")+record("path", "caf\xe9/"+long)+record("mtime", "-1.5")+record("SCHILY.xattr.user.x", "\x00\xff")),
		rawEntry('0', "short", "data"),
		rawEntry('x', "pax", record("mtime", "99999999999999")), rawEntry('0', "far-future", ""),
		rawEntry('L', "././@LongLink", long+"\x00"), rawEntry('K', "././@LongLink", long+"\x00"), rawEntry('2', "long", ""),
	} {
		buf.Write(p)
	}
	return append(buf.Bytes(), make([]byte, 1024)...)
}

// TestOddHeaders holds that every header arrives as archive/tar reads it, and survives the wire.
func TestOddHeaders(t *testing.T) {
	archive := oddHeaders()
	z := mustBuild(t, archive, ztoc.BuildOptions{})
	again := mustUnmarshal(t, mustMarshal(t, z))
	noTime := 0
	for i := range z.TOC {
		e := &z.TOC[i]
		if y := e.ModTime.Year(); y < 0 || y > 9999 {
			noTime++
			if y := again.TOC[i].ModTime.Year(); y != 10000 {
				t.Errorf("%q: year %d", e.Name, y)
			}
			again.TOC[i].ModTime = e.ModTime
		}
	}
	if noTime != 2 || !reflect.DeepEqual(z.TOC, again.TOC) {
		t.Errorf("%d times without wire form; over the wire\n%+v\nbecame\n%+v", noTime, z.TOC, again.TOC)
	}
	if c := mustCheck(t, mustOpen(t, mustMarshal(t, z)), archive, ztoc.CheckOptions{}); len(c.Faults) > 0 {
		t.Errorf("faults of a sound zTOC: %v", c.Faults)
	}
	r := tar.NewReader(bytes.NewReader(archive))
	for _, e := range z.TOC {
		hdr, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if e.Type != ztoc.TypeReg {
			hdr.Size = 0
		}
		if e.Name != hdr.Name || e.Linkname != hdr.Linkname || e.Size != hdr.Size || e.Mode != hdr.Mode || int(e.UID) != hdr.Uid ||
			e.Devmajor != hdr.Devmajor || e.Devminor != hdr.Devminor || !e.ModTime.Equal(hdr.ModTime) || len(e.PAX) != len(hdr.PAXRecords) {
			t.Errorf("%+v is not %+v", e, hdr)
		}
	}
	if len(z.TOC) != oddEntries {
		t.Errorf("%d entries", len(z.TOC))
	}
}

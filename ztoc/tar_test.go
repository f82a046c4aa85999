// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
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

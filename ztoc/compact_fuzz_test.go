// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// oddEntries returns n entries, all of which Build could have found, of every
// strange kind there is.
func oddEntries(seed uint64, n int) []Entry {
	r := rand.New(rand.NewPCG(seed, 0))
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	number := func() int64 {
		return [...]int64{0, 1, 7, -1, 255, 256, 0o644, 1 << 31, math.MaxInt64, math.MinInt64}[r.IntN(10)]
	}
	component := func() string {
		return pick("a", "b", "ab", "abc", "abd", "b\xff", ".", "..", "", "...", ".wh.a", " ", "a\n", strings.Repeat("n", 254+r.IntN(4)), strings.Repeat("m", 700), fmt.Sprint(r.IntN(200)))
	}
	var toc []Entry
	end := int64(0)
	for range n {
		e := Entry{
			Type: TypeReg + EntryType(r.IntN(7)), Mode: number(), UID: uint32(number()), GID: uint32(number()),
			Uname: pick("", "root", "u"), Gname: pick("", "root"), Devmajor: number(), Devminor: number(),
			ModTime: time.Unix(number()/2, r.Int64N(2)*r.Int64N(nanos)).UTC(), Linkname: pick("", "", "a", "../x"),
		}
		parts := make([]string, 1+r.IntN(4))
		for i := range parts {
			parts[i] = component()
		}
		if e.Name = pick("", "./", "/", "//") + strings.Join(parts, "/") + pick("", "/", "//", "/."); e.Name == "" {
			e.Name = "x"
		}
		text := func(sec, nsec int64) string {
			p, _ := appendPAXTime(nil, sec, nsec, byte(r.IntN(2)))
			return string(p)
		}
		records := map[string]string{
			"atime": pick(text(r.Int64N(1e10), r.Int64N(nanos)), "00.5", "1.", "-1", "9000000000.1", "1.1000000000", ""),
			"ctime": text(r.Int64N(1e9), 0), "mtime": pick(text(e.ModTime.Unix(), int64(e.ModTime.Nanosecond())), "1"),
			"path": pick(e.Name, "other"), "linkpath": e.Linkname, "k": pick("", "v\x00\n", strings.Repeat("v", 1000)),
		}
		for _, k := range []string{"atime", "ctime", "k", "linkpath", "mtime", "path"} {
			if r.IntN(3) == 0 {
				e.PAX = append(e.PAX, Record{k, records[k]})
			}
		}
		if e.Type == TypeReg {
			e.Size = r.Int64N(3000) * r.Int64N(2)
		}
		e.Offset = align(end) + tarBlock*(1+r.Int64N(4)*r.Int64N(2))
		end = e.Offset + e.Size
		toc = append(toc, e)
	}
	return toc
}

// plainSource is what a survey of an uncompressed layer with these entries finds.
func plainSource(toc []Entry) *compactSource {
	size := int64(tarBlock)
	if len(toc) > 0 {
		size += align(toc[len(toc)-1].Offset + toc[len(toc)-1].Size)
	}
	rg := Range{Len: size}
	z := &ZInfo{Compression: Uncompressed, SpanSize: MaxSpan, CompressedSize: size, UncompressedSize: size, Spans: []Span{{In: rg, Out: rg}}}
	return &compactSource{layer: sha256.Sum256(nil), buildTool: "test", zinfo: z, entries: slices.All(toc)}
}

// TestCompactEntries gets back whatever entries there are, and finds them.
func TestCompactEntries(t *testing.T) {
	for n := range 60 {
		if n > 50 {
			n *= 17
		}
		toc := oddEntries(uint64(n), n)
		p, err := encodeCompact(plainSource(toc))
		if err != nil {
			t.Fatal(err)
		}
		c := mustOpen(t, p)
		if err := c.Check(); err != nil {
			t.Fatalf("%d entries: %v", n, err)
		}
		checkEntries(t, c, toc)
	}
}

// exercise uses all of c. Nothing may panic, all errors must be typed.
func exercise(t testing.TB, c *Compact) {
	t.Helper()
	typed := func(err error) {
		if err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrLimit) {
			t.Fatalf("error %v is not typed", err)
		}
	}
	bad := c.Check()
	typed(bad)
	_, _, _ = c.LayerDigest(), c.DiffID(), c.BuildTool()
	n := 0
	for i, e := range c.Entries() {
		if i != n || e.Offset < tarBlock || e.Size < 0 || e.Offset+e.Size > c.ZInfo().UncompressedSize || e.check() != nil {
			t.Fatalf("entry %d: %+v", i, e)
		}
		if n++; n < 50 && bad == nil && !upwards(e.Name) {
			if _, ok := c.Lookup(e.Name); !ok {
				t.Fatalf("%q is not found", e.Name)
			}
		}
	}
	if bad == nil && n != c.Len() {
		t.Fatalf("%d entries of %d", n, c.Len())
	}
	for _, name := range []string{"", "a", "usr/bin/mixed", "a/b/c/", "..", strings.Repeat("n/", 100)} {
		c.Lookup(name)
	}
	z := c.ZInfo()
	for id, s := range z.Spans {
		if s.In.Off < 0 || s.In.Len < 0 || s.In.End() > z.CompressedSize || s.Out.Len < 0 || s.Out.Len > 0 && s.Out.End() > z.UncompressedSize {
			t.Fatalf("span %d: %+v, %+v", id, s.In, s.Out)
		}
		var (
			buf  [inflate.WindowSize]byte
			head blockHead
		)
		if id < 100 {
			typed(z.window(id, &buf, &head))
		}
		if id < 10 && s.In.Len < 1<<20 && s.Out.Len < 1<<20 {
			typed(z.Decode(make([]byte, s.Out.Len), id, make([]byte, s.In.Len)))
		}
	}
}

// storedCompact returns compact zTOCs in which nothing is compressed, so that
// changes of a byte reach everything.
func storedCompact(t testing.TB) [][]byte {
	t.Helper()
	encode := func(src *compactSource) []byte {
		p, err := encodedBy(nil, src)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	_, layer, z := storedLayer(t)
	src := &compactSource{buildTool: "test", entries: slices.All(z.TOC), zinfo: &ZInfo{
		Compression: Gzip, SpanSize: MinCompactSpan, CompressedSize: z.ZInfo.CompressedSize, UncompressedSize: z.ZInfo.UncompressedSize}}
	src.zinfo.Spans, src.windows = planned(t, layer, MinCompactSpan, 1<<20)
	return [][]byte{encode(src), encode(plainSource(oddEntries(1, 80)))}
}

// TestCompactFlip changes each byte, and cuts it everywhere.
func TestCompactFlip(t *testing.T) {
	for _, p := range storedCompact(t) {
		exercise(t, mustOpen(t, p))
		step := 1 + len(p)/300
		for i := 0; i < len(p); i += 1 + i/300*step {
			if _, err := OpenCompact(p[:i]); !errors.Is(err, ErrFormat) && !errors.Is(err, ErrLimit) {
				t.Fatalf("%d of %d bytes: error %v", i, len(p), err)
			}
			for _, x := range []byte{1, 0xff} {
				p[i] ^= x
				if c, err := OpenCompact(p); err == nil {
					exercise(t, c)
				} else if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrLimit) {
					t.Fatalf("byte %d: error %v is not typed", i, err)
				}
				p[i] ^= x
			}
		}
	}
}

// FuzzOpenCompact: no input panics, whatever is then done with it.
func FuzzOpenCompact(f *testing.F) {
	for _, p := range storedCompact(f) {
		f.Add(p)
	}
	for _, n := range []int{0, 1, 200} {
		p, err := encodeCompact(plainSource(oddEntries(2, n)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		c, err := OpenCompact(p)
		if err == nil {
			exercise(t, c)
		} else if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrLimit) {
			t.Fatalf("error %v is not typed", err)
		}
	})
}

// FuzzCompactEntries: names of all kinds come back and are found.
func FuzzCompactEntries(f *testing.F) {
	f.Add("a\x00./a/\x00a//b\x00../a\x00/\x00a", uint64(1))
	f.Fuzz(func(t *testing.T, names string, seed uint64) {
		list := strings.Split(names, "\x00")
		toc := oddEntries(seed, len(list))
		for i := range toc {
			if list[i] != "" && len(list[i]) <= MaxName {
				toc[i].Name = list[i]
			}
		}
		p, err := encodeCompact(plainSource(toc))
		if err != nil {
			t.Fatal(err)
		}
		checkEntries(t, mustOpen(t, p), toc)
	})
}

// storedLayer returns the archive and the layer that storedCompact is made of, and its zTOC.
func storedLayer(t testing.TB) (plain, layer []byte, z *ZTOC) {
	t.Helper()
	plain, err := ztoctest.Tar(ztoctest.Files(3, 20), ztoctest.TarOptions{Prefix: "./"})
	if err != nil {
		t.Fatal(err)
	}
	layer, err = ztoctest.Member{Level: 6}.Encode(plain)
	if err != nil {
		t.Fatal(err)
	}
	z, err = Build(t.Context(), bytes.NewReader(layer), BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return plain, layer, z
}

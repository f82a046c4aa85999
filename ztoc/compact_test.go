// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"reflect"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// planned returns the spans and windows that a planner chooses for a gzip layer fed
// to it in pieces of so many bytes.
func planned(t testing.TB, layer []byte, spanSize int64, pieceSize int) ([]Span, *windowWriter) {
	t.Helper()
	var (
		p       = newPlanner(spanSize, newSpool(t.TempDir()))
		cuts    []cut
		settled int64
	)
	take := func(c []cut) {
		for _, c := range c {
			if c.start < settled {
				t.Fatalf("cut at %d, settled %d", c.start, settled)
			}
			cuts = append(cuts, c)
		}
	}
	out := eachPiece(t, layer, spanSize, pieceSize, func(x *piece) {
		c, s, err := p.add(x)
		if err != nil {
			t.Fatal(err)
		}
		take(c)
		if s < settled || s < x.bit/8-maxHeld {
			t.Fatalf("settled %d after %d, at %d", s, settled, x.bit/8)
		}
		settled = s
	})
	c, err := p.finish(out)
	if err != nil {
		t.Fatal(err)
	}
	take(c)
	if len(cuts) != len(p.spans) {
		t.Fatalf("%d cuts for %d spans", len(cuts), len(p.spans))
	}
	for i, s := range p.spans {
		end := int64(len(layer))
		if i+1 < len(cuts) {
			end = cuts[i+1].end
		}
		p.spans[i].Sum = sha256.Sum256(layer[s.In.Off:end])
	}
	return p.spans, p.out
}

// encodeCompact returns the compact zTOC of a layer.
func encodeCompact(src *compactSource) ([]byte, error) {
	var b bytes.Buffer
	err := src.write(&b)
	return b.Bytes(), err
}

// encodedBy is encodeCompact with an encoder.
func encodedBy(enc *zstd.Encoder, src *compactSource) ([]byte, error) {
	var b bytes.Buffer
	err := src.encode(enc, &b)
	return b.Bytes(), err
}

// mustCompact returns the compact zTOC of a layer and its 0.9 zTOC.
func mustCompact(t testing.TB, layer []byte, spanSize int64, piece int) ([]byte, *ZTOC) {
	t.Helper()
	z, err := Build(t.Context(), bytes.NewReader(layer), BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	plain := layer
	src := compactSource{layer: sha256.Sum256(layer), buildTool: "test", entries: slices.All(z.TOC)}
	zi := &ZInfo{Compression: z.ZInfo.Compression, SpanSize: spanSize, CompressedSize: z.ZInfo.CompressedSize, UncompressedSize: z.ZInfo.UncompressedSize}
	src.zinfo = zi
	if zi.Compression == Gzip {
		zi.Spans, src.windows = planned(t, layer, spanSize, piece)
		r, err := gzip.NewReader(bytes.NewReader(layer))
		if err != nil {
			t.Fatal(err)
		}
		if plain, err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	} else {
		for off := int64(0); off < int64(len(layer)); off += spanSize {
			r := Range{Off: off, Len: min(spanSize, int64(len(layer))-off)}
			zi.Spans = append(zi.Spans, Span{In: r, Out: r, Sum: sha256.Sum256(layer[off:r.End()])})
		}
	}
	src.diffID = sha256.Sum256(plain)
	p, err := encodeCompact(&src)
	if err != nil {
		t.Fatal(err)
	}
	return p, z
}

func mustOpen(t testing.TB, p []byte) *Compact {
	t.Helper()
	c, err := OpenCompact(p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// checkCompact holds a compact zTOC to the 0.9 zTOC and the bytes of its layer.
func checkCompact(t testing.TB, c *Compact, z *ZTOC, layer, plain []byte) {
	t.Helper()
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	checkEntries(t, c, z.TOC)
	zi := c.ZInfo()
	if zi.CompressedSize != z.ZInfo.CompressedSize || zi.UncompressedSize != z.ZInfo.UncompressedSize || zi.Compression != z.ZInfo.Compression {
		t.Fatalf("sizes %+v", zi)
	}
	var end int64
	for id, s := range zi.Spans {
		if s.Out.Len > 0 && s.Out.Off != end || s.Window != nil {
			t.Fatalf("span %d begins at %d, want %d", id, s.Out.Off, end)
		}
		src := layer[s.In.Off:s.In.End()]
		if err := zi.Verify(id, src); err != nil {
			t.Fatal(err)
		}
		dst := make([]byte, s.Out.Len)
		if err := zi.Decode(dst, id, src); err != nil {
			t.Fatal(err)
		}
		if s.Out.Len > 0 {
			if !bytes.Equal(dst, plain[s.Out.Off:s.Out.End()]) {
				t.Fatalf("span %d of %d differs", id, len(zi.Spans))
			}
			end = s.Out.End()
		}
	}
	if end != zi.UncompressedSize {
		t.Fatalf("spans end at %d, want %d", end, zi.UncompressedSize)
	}
}

// checkEntries holds the table of c to toc, and looks up every path.
func checkEntries(t testing.TB, c *Compact, toc []Entry) {
	t.Helper()
	if c.Len() != len(toc) {
		t.Fatalf("%d entries, want %d", c.Len(), len(toc))
	}
	last := map[string]int{}
	n := 0
	for i, e := range c.Entries() {
		if i != n || !reflect.DeepEqual(e, toc[i]) {
			t.Fatalf("entry %d is\n%+v, want\n%+v", i, e, toc[i])
		}
		if !upwards(e.Name) {
			last[cleanPath(e.Name)] = i
		} else if _, ok := c.Lookup(e.Name); ok {
			t.Fatalf("%q leads upwards and is found", e.Name)
		}
		n++
	}
	if n != len(toc) {
		t.Fatalf("%d entries, want %d (%v)", n, len(toc), c.Check())
	}
	for path, i := range last {
		for _, name := range []string{path, toc[i].Name, "./" + path + "/"} {
			if e, ok := c.Lookup(name); !ok || !reflect.DeepEqual(e, toc[i]) {
				t.Fatalf("Lookup(%q) is\n%+v, %v, want entry %d,\n%+v", name, e, ok, i, toc[i])
			}
		}
		for _, name := range []string{path + "\x00", path + "x", path + "/x", "!" + path} {
			if _, ok := last[cleanPath(name)]; !ok {
				if e, ok := c.Lookup(name); ok {
					t.Fatalf("Lookup(%q) is %+v", name, e)
				}
			}
		}
	}
}

func TestCompact(t *testing.T) {
	files := ztoctest.Files(3, 40)
	prefixes := []string{"", "./", "/"}
	for i, enc := range ztoctest.Encoders() {
		try := prefixes[i%len(prefixes):][:1]
		if i == 0 {
			try = prefixes
		}
		for _, prefix := range try {
			t.Run(fmt.Sprintf("%s %q", enc.Name, prefix), func(t *testing.T) {
				t.Parallel()
				if !enc.Available() {
					t.Skip("no such encoder here")
				}
				plain, err := ztoctest.Tar(files, ztoctest.TarOptions{Prefix: prefix, Padding: 3000})
				if err != nil {
					t.Fatal(err)
				}
				layer, err := enc.Encode(plain)
				if err != nil {
					t.Fatal(err)
				}
				p, z := mustCompact(t, layer, 64<<10, 50<<10)
				checkCompact(t, mustOpen(t, p), z, layer, plain)
			})
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

func mustBuild(t testing.TB, layer []byte, opts ztoc.BuildOptions) *ztoc.ZTOC {
	t.Helper()
	z, err := ztoc.Build(t.Context(), bytes.NewReader(layer), opts)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func mustMarshal(t testing.TB, z *ztoc.ZTOC) []byte {
	t.Helper()
	p, err := z.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustUnmarshal(t testing.TB, p []byte) *ztoc.ZTOC {
	t.Helper()
	z, err := ztoc.Unmarshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func mustTar(t testing.TB, files []ztoctest.File, opts ztoctest.TarOptions) []byte {
	t.Helper()
	p, err := ztoctest.Tar(files, opts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustGzip(t testing.TB, p []byte, m ztoctest.Member) []byte {
	t.Helper()
	layer, err := m.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

func mustGunzip(t testing.TB, layer []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(layer))
	if err != nil {
		t.Fatal(err)
	}
	p, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// mustDecode returns span id, verified and inflated.
func mustDecode(t testing.TB, z *ztoc.ZInfo, id int, layer []byte) []byte {
	t.Helper()
	s := z.Spans[id]
	src := layer[s.In.Off:s.In.End()]
	if err := z.Verify(id, src); err != nil {
		t.Fatal(err)
	}
	dst := make([]byte, s.Out.Len)
	if err := z.Decode(dst, id, src); err != nil {
		t.Fatal(err)
	}
	return dst
}

// checkSpans decodes every span of z by itself and compares with plain.
func checkSpans(t testing.TB, z *ztoc.ZTOC, layer, plain []byte) {
	t.Helper()
	i := z.ZInfo
	if i.CompressedSize != int64(len(layer)) || i.UncompressedSize > int64(len(plain)) {
		t.Fatalf("sizes %d, %d, want %d, at most %d", i.CompressedSize, i.UncompressedSize, len(layer), len(plain))
	}
	var end int64
	for id, s := range i.Spans {
		if s.Out.Len > 0 && s.Out.Off != end {
			t.Fatalf("span %d begins at %d, want %d", id, s.Out.Off, end)
		}
		if got := mustDecode(t, i, id, layer); s.Out.Len > 0 && !bytes.Equal(got, plain[s.Out.Off:s.Out.End()]) {
			t.Fatalf("span %d of %d differs", id, len(i.Spans))
		}
		if id%(1+len(i.Spans)/8) == 0 {
			checkPieces(t, i, id, layer, plain)
		}
		end = max(end, s.Out.End())
		if s.Out.Len > 0 {
			if at := i.SpanAt(s.Out.Off); at != id {
				t.Fatalf("SpanAt(%d) = %d, want %d", s.Out.Off, at, id)
			}
			if at := i.SpanAt(s.Out.End() - 1); at != id {
				t.Fatalf("SpanAt(%d) = %d, want %d", s.Out.End()-1, at, id)
			}
		}
	}
	if want := min(end, i.UncompressedSize); want != i.UncompressedSize {
		t.Fatalf("spans end at %d, want %d", end, i.UncompressedSize)
	}
}

// checkPieces decodes span id in some steps, and ranges of it.
func checkPieces(t testing.TB, z *ztoc.ZInfo, id int, layer, plain []byte) {
	t.Helper()
	s := z.Spans[id]
	if s.Out.Len == 0 {
		return
	}
	src := layer[s.In.Off:s.In.End()]
	want := plain[s.Out.Off:s.Out.End()]
	r := rand.New(rand.NewPCG(uint64(id), uint64(s.Out.Len)))
	d, err := z.Open(id, src)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	dst := make([]byte, s.Out.Len)
	for n := int64(0); n < s.Out.Len; {
		n += 1 + r.Int64N(1+s.Out.Len/2)
		n = min(n, s.Out.Len)
		have, err := d.Fill(dst, n)
		if err != nil {
			t.Fatal(err)
		}
		if have < n || !bytes.Equal(dst[:have], want[:have]) {
			t.Fatalf("span %d to %d: %d bytes, or others", id, n, have)
		}
	}
	for range 3 {
		off := r.Int64N(s.Out.Len)
		n := min(s.Out.Len-off, 1+r.Int64N(5000))
		p := make([]byte, n)
		if err := z.DecodeRange(p, id, off, src); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p, want[off:off+n]) {
			t.Fatalf("[%d,+%d) of span %d differs", off, n, id)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"bytes"
	"compress/gzip"
	"io"
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

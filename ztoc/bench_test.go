// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"bytes"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// benchLayer is 32 MiB of tar as gzip -6 makes it.
func benchLayer(b *testing.B) (layer, archive []byte) {
	b.Helper()
	files := append(ztoctest.Files(1, 2000), ztoctest.Big(1, "big", 28<<20))
	archive = mustTar(b, files, ztoctest.TarOptions{})
	return mustGzip(b, archive, ztoctest.Member{Level: 6}), archive
}

// BenchmarkBuild counts uncompressed bytes.
func BenchmarkBuild(b *testing.B) {
	layer, archive := benchLayer(b)
	b.SetBytes(int64(len(archive)))
	b.ReportAllocs()
	for b.Loop() {
		z := mustBuild(b, layer, ztoc.BuildOptions{})
		if z.ZInfo.UncompressedSize != int64(len(archive)) {
			b.Fatal("wrong size")
		}
	}
}

// BenchmarkDecode verifies and inflates each span of a layer, and counts uncompressed bytes.
func BenchmarkDecode(b *testing.B) {
	layer, archive := benchLayer(b)
	z := mustBuild(b, layer, ztoc.BuildOptions{}).ZInfo
	dst := make([]byte, len(archive))
	b.SetBytes(int64(len(archive)))
	b.ReportAllocs()
	for b.Loop() {
		for id, s := range z.Spans {
			src := layer[s.In.Off:s.In.End()]
			if err := z.Verify(id, src); err != nil {
				b.Fatal(err)
			}
			if err := z.Decode(dst[s.Out.Off:s.Out.End()], id, src); err != nil {
				b.Fatal(err)
			}
		}
	}
	if !bytes.Equal(dst, archive) {
		b.Fatal("wrong bytes")
	}
}

// BenchmarkUnmarshal counts the bytes of the zTOC.
func BenchmarkUnmarshal(b *testing.B) {
	layer, _ := benchLayer(b)
	p := mustMarshal(b, mustBuild(b, layer, ztoc.BuildOptions{SpanSize: 1 << 20}))
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		mustUnmarshal(b, p)
	}
}

// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"strconv"
	"testing"

	"github.com/opencontainers/go-digest"

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

// BenchmarkSurvey counts uncompressed bytes. The zTOC is written, too.
func BenchmarkSurvey(b *testing.B) {
	layer, archive := benchLayer(b)
	want := digest.FromBytes(archive)
	b.SetBytes(int64(len(archive)))
	b.ReportAllocs()
	for b.Loop() {
		s, err := ztoc.NewSurvey(b.Context(), bytes.NewReader(layer), ztoc.SurveyOptions{})
		if err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(s.WriteZTOC(io.Discard), s.Close()); err != nil || s.DiffID() != want {
			b.Fatalf("diffID %s (%v)", s.DiffID(), err)
		}
	}
}

// BenchmarkSurveyFiles has layers of ever more empty files: sys-MB is what the
// process got from the system, which does not follow their number, and ns/file the
// time of each, that of making its header included.
func BenchmarkSurveyFiles(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			for b.Loop() {
				s, err := ztoc.NewSurvey(b.Context(), manyFiles(n), ztoc.SurveyOptions{})
				if err != nil {
					b.Fatal(err)
				}
				if err := errors.Join(s.WriteZTOC(io.Discard), s.Close()); err != nil || s.Len() != n {
					b.Fatalf("%d files (%v)", s.Len(), err)
				}
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.Sys)/(1<<20), "sys-MB")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/file")
		})
	}
}

// BenchmarkMarshal counts the bytes of the zTOC.
func BenchmarkMarshal(b *testing.B) {
	z, err := ztoc.Build(b.Context(), manyFiles(40_000), ztoc.BuildOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(mustMarshal(b, z))))
	b.ReportAllocs()
	for b.Loop() {
		mustMarshal(b, z)
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

// BenchmarkPairDecoder decodes spans two at a time on one core; compare BenchmarkDecode.
func BenchmarkPairDecoder(b *testing.B) {
	layer, archive := benchLayer(b)
	works := allWork(mustBuild(b, layer, ztoc.BuildOptions{}).ZInfo, layer)
	b.SetBytes(int64(len(archive)))
	b.ReportAllocs()
	var p ztoc.PairDecoder
	for b.Loop() {
		for _, w := range works {
			if p.Len() == 2 {
				p.Next()
			}
			p.Add(w)
		}
		for p.Next() != nil {
		}
	}
	for _, w := range works {
		s := w.ZInfo.Spans[w.ID]
		if w.Err != nil || !bytes.Equal(w.Dst, archive[s.Out.Off:s.Out.End()]) {
			b.Fatalf("span %d: other bytes (%v)", w.ID, w.Err)
		}
	}
}

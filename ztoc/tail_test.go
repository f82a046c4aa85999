// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestWriteTail asks for what lies behind the tar, however it was compressed.
func TestWriteTail(t *testing.T) {
	for _, e := range ztoctest.Encoders() {
		if !e.Available() {
			continue
		}
		for _, padding := range []int{0, 5000, 150_000} {
			archive := mustTar(t, ztoctest.Files(3, 20), ztoctest.TarOptions{Padding: padding})
			if padding > 0 {
				copy(archive[len(archive)-1000:], "not all of it is zero")
			}
			layer, err := e.Encode(archive)
			if err != nil {
				t.Fatal(err)
			}
			for _, size := range []int64{ztoc.EveryBlock, 4096, 1 << 20} {
				t.Run(fmt.Sprintf("%s/%d/%d", e.Name, padding, size), func(t *testing.T) {
					z := mustBuild(t, layer, ztoc.BuildOptions{SpanSize: size}).ZInfo
					src := layer[z.Spans[z.TailSpan()].In.Off:]
					var tail bytes.Buffer
					if err := z.WriteTail(&tail, src); err != nil {
						t.Fatal(err)
					}
					if want := archive[z.UncompressedSize:]; !bytes.Equal(tail.Bytes(), want) {
						t.Errorf("%d bytes, want %d", tail.Len(), len(want))
					}
					var format *ztoc.FormatError
					for _, n := range []int{0, 1, len(src) / 2} {
						if err := z.WriteTail(&tail, src[:n]); err == nil || errors.As(err, &format) {
							t.Errorf("%d of %d bytes: %v", n, len(src), err)
						}
					}
					for i := range min(len(src), 12) {
						src := bytes.Clone(src)
						src[len(src)-1-i] ^= 0x55
						_ = z.WriteTail(&tail, src) // it ends, whatever it finds
					}
				})
			}
		}
	}
}

// failWriter takes n bytes.
type failWriter struct{ n int }

var errFull = errors.New("full")

func (w *failWriter) Write(p []byte) (int, error) {
	if w.n -= len(p); w.n < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestWriteTailEnds(t *testing.T) {
	archive := mustTar(t, ztoctest.Files(3, 20), ztoctest.TarOptions{Padding: 2 << 20})
	layer := mustGzip(t, archive, ztoctest.Member{Level: 6})
	z := mustBuild(t, layer, ztoc.BuildOptions{SpanSize: 64 << 10}).ZInfo
	if err := z.WriteTail(&failWriter{500_000}, layer[z.Spans[z.TailSpan()].In.Off:]); !errors.Is(err, errFull) {
		t.Error(err)
	}
	plain := &ztoc.ZInfo{
		Compression: ztoc.Uncompressed, CompressedSize: int64(len(archive)), UncompressedSize: int64(len(archive)) - 100,
		Spans: []ztoc.Span{{In: ztoc.Range{Len: int64(len(archive))}, Out: ztoc.Range{Len: int64(len(archive)) - 100}}},
	}
	var tail bytes.Buffer
	if err := plain.WriteTail(&tail, archive); err != nil || tail.Len() != 100 {
		t.Errorf("%d bytes, %v", tail.Len(), err)
	}
	if err := new(ztoc.ZInfo).WriteTail(&tail, nil); err == nil {
		t.Error("a zInfo without spans has a tail")
	}
}

// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// FuzzUnmarshal: no input panics, and what is accepted is sound and survives a
// trip over the wire.
func FuzzUnmarshal(f *testing.F) {
	layer, archive := tiny(f)
	f.Add(mustMarshal(f, mustBuild(f, layer, ztoc.BuildOptions{})))
	f.Add(mustMarshal(f, mustBuild(f, archive, ztoc.BuildOptions{})))
	f.Fuzz(func(t *testing.T, p []byte) {
		z, err := ztoc.Unmarshal(p)
		if err != nil {
			if !errors.Is(err, ztoc.ErrFormat) && !errors.Is(err, ztoc.ErrLimit) {
				t.Fatalf("error %v is not typed", err)
			}
			return
		}
		for id, s := range z.ZInfo.Spans {
			if s.In.Off < 0 || s.In.Len < 0 || s.In.End() > z.ZInfo.CompressedSize || s.Out.Len < 0 || s.Out.Len > 0 && s.Out.End() > z.ZInfo.UncompressedSize {
				t.Fatalf("span %d: %+v, %+v", id, s.In, s.Out)
			}
		}
		for _, e := range z.TOC {
			if e.Offset < 512 || e.Size < 0 || e.Offset+e.Size > z.ZInfo.UncompressedSize {
				t.Fatalf("entry %+v", e)
			}
		}
		again, err := ztoc.Unmarshal(mustMarshal(t, z))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(again.TOC, z.TOC) || !reflect.DeepEqual(again.ZInfo.Spans, z.ZInfo.Spans) {
			t.Fatal("differs after a trip over the wire")
		}
	})
}

// FuzzBuild: whatever Build accepts, the standard library reads to the same bytes,
// and its zTOC is one that Unmarshal accepts.
func FuzzBuild(f *testing.F) {
	layer, archive := tiny(f)
	f.Add(layer, int64(256))
	f.Add(archive, int64(512))
	f.Add(mustGzip(f, archive, ztoctest.Member{Level: 0}), int64(-1))
	f.Fuzz(func(t *testing.T, layer []byte, size int64) {
		z, err := ztoc.Build(t.Context(), bytes.NewReader(layer), ztoc.BuildOptions{SpanSize: size})
		if err != nil {
			return
		}
		plain := layer
		if z.ZInfo.Compression == ztoc.Gzip {
			var ok bool
			if plain, ok = readLayer(layer); !ok {
				t.Fatal("the standard library does not accept this layer")
			}
		} else if len(z.ZInfo.Spans) > 10000 {
			return
		}
		checkSpans(t, z, layer, plain)
		checkTOC(t, z.TOC, plain)
		checkSpans(t, mustUnmarshal(t, mustMarshal(t, z)), layer, plain)
	})
}

// FuzzDecode: every span of every layer decodes to what was compressed, and
// flipping a bit of it makes other bytes or an error, but no panic and no end of
// the world.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("hello, hello"), 6, 0, int64(1), 40)
	f.Add(bytes.Repeat([]byte{0}, 70000), 1, 3000, int64(4096), 99)
	f.Add([]byte{}, -2, 0, int64(-1), 0)
	f.Fuzz(func(t *testing.T, data []byte, level, flush int, size int64, flip int) {
		if level < -2 || level > 9 || flush < 0 || flush > 0 && len(data)/flush > 100 {
			return
		}
		archive := mustTar(t, []ztoctest.File{{Header: tar.Header{Name: "f"}, Data: data}}, ztoctest.TarOptions{})
		layer := mustGzip(t, archive, ztoctest.Member{Level: level, FlushEvery: flush})
		z, err := ztoc.Build(t.Context(), bytes.NewReader(layer), ztoc.BuildOptions{SpanSize: size})
		if err != nil {
			if size < ztoc.EveryBlock {
				return
			}
			t.Fatal(err)
		}
		checkSpans(t, z, layer, archive)
		for id, s := range z.ZInfo.Spans {
			src := slices.Clone(layer[s.In.Off:s.In.End()])
			if flip < 0 || flip/8 >= len(src) {
				continue
			}
			src[flip/8] ^= 1 << (flip % 8)
			if err := z.ZInfo.Verify(id, src); !errors.Is(err, ztoc.ErrDigest) {
				t.Fatalf("flipped bit verifies: %v", err)
			}
			var fe *ztoc.FormatError
			if err := z.ZInfo.Decode(make([]byte, s.Out.Len), id, src); err != nil && !errors.As(err, &fe) {
				t.Fatalf("error %v is not typed", err)
			}
		}
	})
}

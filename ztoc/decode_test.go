// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// sample is a layer of some spans with shared bytes, and its zTOC.
func sample(t testing.TB) (z *ztoc.ZInfo, layer, archive []byte) {
	t.Helper()
	archive = mustTar(t, ztoctest.Files(9, 50), ztoctest.TarOptions{})
	layer = mustGzip(t, archive, ztoctest.Member{Level: 6})
	z = mustBuild(t, layer, ztoc.BuildOptions{SpanSize: 64 << 10}).ZInfo
	if len(z.Spans) < 4 {
		t.Fatalf("only %d spans", len(z.Spans))
	}
	return z, layer, archive
}

func TestVerify(t *testing.T) {
	z, layer, _ := sample(t)
	s := z.Spans[1]
	src := slices.Clone(layer[s.In.Off:s.In.End()])
	if err := z.Verify(1, src); err != nil {
		t.Error(err)
	}
	if err := z.Verify(1, src[1:]); !errors.Is(err, ztoc.ErrDigest) {
		t.Errorf("one byte less: %v", err)
	}
	src[len(src)/2] ^= 1
	if err := z.Verify(1, src); !errors.Is(err, ztoc.ErrDigest) {
		t.Errorf("one bit flipped: %v", err)
	}
	for _, id := range []int{-1, len(z.Spans)} {
		if z.Verify(id, src) == nil || z.Decode(nil, id, src) == nil {
			t.Errorf("span %d: no error", id)
		}
	}
}

func TestSpansOf(t *testing.T) {
	z, _, _ := sample(t)
	second := z.Spans[1].Out
	for _, tt := range []struct {
		r          ztoc.Range
		first, end int
	}{
		{ztoc.Range{Off: 0, Len: 1}, 0, 1},
		{ztoc.Range{Off: 0, Len: second.Off}, 0, 1},
		{ztoc.Range{Off: 0, Len: second.Off + 1}, 0, 2},
		{ztoc.Range{Off: second.Off - 1, Len: 1}, 0, 1},
		{ztoc.Range{Off: second.Off, Len: second.Len}, 1, 2},
		{ztoc.Range{Off: second.Off, Len: 0}, 1, 1},
		{ztoc.Range{Off: 0, Len: z.UncompressedSize}, 0, len(z.Spans)},
	} {
		if first, end := z.SpansOf(tt.r); first != tt.first || end != tt.end {
			t.Errorf("SpansOf(%+v) = %d, %d, want %d, %d", tt.r, first, end, tt.first, tt.end)
		}
	}
}

// TestDecodeLies has zTOCs that declare other output than the span has. The bytes
// of neighbours must not leak in, nor any be made up.
func TestDecodeLies(t *testing.T) {
	archive := mustTar(t, append(ztoctest.Files(9, 0)[:17], ztoctest.Big(1, "big", 200000)), ztoctest.TarOptions{})
	for _, enc := range ztoctest.Encoders() {
		if !enc.Available() {
			continue // TestEncoders reports it
		}
		layer, err := enc.Encode(archive)
		if err != nil {
			t.Fatal(err)
		}
		z := mustBuild(t, layer, ztoc.BuildOptions{SpanSize: 16 << 10}).ZInfo
		for id := range z.Spans[:len(z.Spans)-1] {
			out := &z.Spans[id].Out
			src := layer[z.Spans[id].In.Off:z.Spans[id].In.End()]
			for _, lie := range []int64{-1, 1, 2, 300, 1 << 20} {
				if out.Len+lie < 0 {
					continue
				}
				out.Len += lie
				var fe *ztoc.FormatError
				if err := z.Decode(make([]byte, out.Len), id, src); !errors.As(err, &fe) {
					t.Errorf("%s, span %d of %d, declared %+d: %v, want a *FormatError", enc.Name, id, len(z.Spans), lie, err)
				}
				out.Len -= lie
			}
		}
		last := len(z.Spans) - 1
		s := &z.Spans[last]
		s.Out.Len++
		if err := z.Decode(make([]byte, s.Out.Len), last, layer[s.In.Off:s.In.End()]); err == nil {
			t.Errorf("%s: last span, declared +1: no error", enc.Name)
		}
	}
}

// TestDecodeOutside asks for bytes that a span does not have, and of no span.
func TestDecodeOutside(t *testing.T) {
	z, layer, _ := sample(t)
	s := z.Spans[1]
	src := layer[s.In.Off:s.In.End()]
	for _, r := range []ztoc.Range{{Off: -1, Len: 1}, {Off: s.Out.Len, Len: 1}, {Off: 1, Len: s.Out.Len}, {Off: math.MaxInt64, Len: 1}} {
		if z.DecodeRange(make([]byte, r.Len), 1, r.Off, src) == nil {
			t.Errorf("range %+v of a span of %d bytes: no error", r, s.Out.Len)
		}
	}
	for _, id := range []int{-1, len(z.Spans)} {
		if z.DecodeRange(nil, id, 0, src) == nil {
			t.Errorf("span %d of %d: no error", id, len(z.Spans))
		}
	}
	d, err := z.Open(1, src)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, n := range []int64{-1, s.Out.Len + 1} {
		if _, err := d.Fill(make([]byte, s.Out.Len), n); err == nil {
			t.Errorf("%d bytes of a span of %d: no error", n, s.Out.Len)
		}
	}
	if _, err := d.Fill(make([]byte, s.Out.Len-1), 0); err == nil {
		t.Error("a short buffer: no error")
	}
}

// TestDecodeCut gives Decode less than the span, and spoiled bytes.
func TestDecodeCut(t *testing.T) {
	z, layer, _ := sample(t)
	for id := range z.Spans {
		s := z.Spans[id]
		src := slices.Clone(layer[s.In.Off:s.In.End()])
		dst := make([]byte, s.Out.Len)
		for _, b := range [][]byte{nil, src[:len(src)-1], append(slices.Clone(src), 0)} {
			if z.Decode(dst, id, b) == nil {
				t.Errorf("span %d from %d of %d bytes: no error", id, len(b), len(src))
			}
		}
		if z.Decode(dst[:len(dst)-1], id, src) == nil {
			t.Errorf("span %d into a short buffer: no error", id)
		}
		for i := range src {
			src[i] ^= 0xa5
		}
		_ = z.Decode(dst, id, src) // garbage: it must come to an end, whatever it says
	}
}

func TestDecodeConcurrent(t *testing.T) {
	z, layer, archive := sample(t)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 3 * len(z.Spans) {
				id := (i*7 + g) % len(z.Spans)
				s := z.Spans[id]
				dst := make([]byte, s.Out.Len)
				if err := z.Decode(dst, id, layer[s.In.Off:s.In.End()]); err != nil {
					t.Error(err)
				} else if !bytes.Equal(dst, archive[s.Out.Off:s.Out.End()]) {
					t.Errorf("span %d differs", id)
				}
			}
		})
	}
	wg.Wait()
}

// TestDecodeMembers has spans that run across many members, an empty one too.
func TestDecodeMembers(t *testing.T) {
	archive := mustTar(t, []ztoctest.File{ztoctest.Big(1, "big", 150000), {Header: tar.Header{Name: "end"}}}, ztoctest.TarOptions{})
	for _, size := range []int{1000, 33000, 100000} {
		layer, err := ztoctest.Members(archive, size, ztoctest.Member{Level: 6, Extra: []byte("ex"), Comment: "c", HeaderCRC: 1})
		if err != nil {
			t.Fatal(err)
		}
		for _, span := range []int64{ztoc.EveryBlock, 70000, 1 << 30} {
			checkSpans(t, mustBuild(t, layer, ztoc.BuildOptions{SpanSize: span}), layer, archive)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bytes"
	"sync"
	"testing"

	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestCompactSurvey writes a compact zTOC the way the command does, and reads its
// spans from several goroutines, which share unpacked windows.
func TestCompactSurvey(t *testing.T) {
	plain, err := ztoctest.Tar([]ztoctest.File{ztoctest.Big(1, "big", 3<<20)}, ztoctest.TarOptions{})
	if err != nil {
		t.Fatal(err)
	}
	layer, err := ztoctest.Member{Level: 6}.Encode(plain)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSurvey(t.Context(), bytes.NewReader(layer), SurveyOptions{CompactSpanSize: MinCompactSpan})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var buf bytes.Buffer
	if err := s.WriteCompact(&buf); err != nil {
		t.Fatal(err)
	}
	c := mustOpen(t, buf.Bytes())
	if c.LayerDigest() != s.LayerDigest() || c.DiffID() != s.DiffID() || c.BuildTool() != DefaultBuildTool {
		t.Errorf("of layer %v, diffID %v, by %q", c.LayerDigest(), c.DiffID(), c.BuildTool())
	}
	z := c.ZInfo()
	inner := 0
	for id := range z.Spans {
		var (
			win  [windowSize]byte
			head blockHead
		)
		if err := z.window(id, &win, &head); err != nil {
			t.Fatal(err)
		}
		if head.n > 0 {
			inner++
		}
	}
	if len(z.Spans) < 30 || inner == 0 {
		t.Errorf("%d spans, %d within a block", len(z.Spans), inner)
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			dst := make([]byte, 100)
			for i := range 200 {
				id := (i*7 + g*11) % len(z.Spans)
				sp := &z.Spans[id]
				off := int64(i*997) % (sp.Out.Len - 100)
				if err := z.DecodeRange(dst, id, off, layer[sp.In.Off:sp.In.End()]); err != nil {
					t.Error(err)
				} else if !bytes.Equal(dst, plain[sp.Out.Off+off:][:100]) {
					t.Errorf("%d bytes of span %d differ", off, id)
				}
			}
		})
	}
	wg.Wait()
}

// TestCompactSpanSize refuses sizes for which zones would overlap, and needs one.
func TestCompactSpanSize(t *testing.T) {
	layer, err := ztoctest.Tar(ztoctest.Files(1, 1), ztoctest.TarOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{-1, 1, MinCompactSpan - 1, MaxSpan} {
		if _, err := NewSurvey(t.Context(), bytes.NewReader(layer), SurveyOptions{CompactSpanSize: size}); err == nil {
			t.Errorf("span size %d: no error", size)
		}
	}
	s, err := NewSurvey(t.Context(), bytes.NewReader(layer), SurveyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.WriteCompact(new(bytes.Buffer)); err == nil {
		t.Error("no error without a compact span size")
	}
}

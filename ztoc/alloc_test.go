// SPDX-License-Identifier: Apache-2.0

//go:build !race

package ztoc_test

import (
	"bytes"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestDecodeAllocs is not built for the race detector, under which pools forget on purpose.
func TestDecodeAllocs(t *testing.T) {
	z, layer, _ := sample(t)
	t.Run("0.9", func(t *testing.T) { checkDecodeAllocs(t, z, layer) })
	t.Run("compact", func(t *testing.T) {
		archive := mustTar(t, []ztoctest.File{ztoctest.Big(1, "big", 3<<20)}, ztoctest.TarOptions{})
		layer := mustGzip(t, archive, ztoctest.Member{Level: 6})
		var buf bytes.Buffer
		s := mustSurvey(t, bytes.NewReader(layer), ztoc.SurveyOptions{CompactSpanSize: ztoc.MinCompactSpan})
		if err := s.WriteCompact(&buf); err != nil {
			t.Fatal(err)
		}
		c, err := ztoc.OpenCompact(buf.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if len(c.ZInfo().Spans) < 40 {
			t.Fatalf("%d spans, in too few groups of windows", len(c.ZInfo().Spans))
		}
		checkDecodeAllocs(t, c.ZInfo(), layer)
	})
}

// checkDecodeAllocs decodes all spans again and again.
func checkDecodeAllocs(t *testing.T, z *ztoc.ZInfo, layer []byte) {
	t.Helper()
	// A pool forgets at a collection and when the number of processors changes,
	// which AllocsPerRun sets to one.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	id := 0
	var dst []byte
	for _, s := range z.Spans {
		dst = make([]byte, max(len(dst), int(s.Out.Len)))
	}
	run := func() {
		s := z.Spans[id%len(z.Spans)]
		src := layer[s.In.Off:s.In.End()]
		if err := z.Verify(id%len(z.Spans), src); err != nil {
			t.Fatal(err)
		}
		if err := z.Decode(dst[:s.Out.Len], id%len(z.Spans), src); err != nil {
			t.Fatal(err)
		}
		if err := z.DecodeRange(dst[:s.Out.Len/2], id%len(z.Spans), s.Out.Len/3, src); err != nil {
			t.Fatal(err)
		}
		id++
	}
	for range 2 * len(z.Spans) {
		run()
	}
	if n := testing.AllocsPerRun(4*len(z.Spans), run); n != 0 {
		t.Errorf("%v allocations a span, want none", n)
	}
}

// TestPairDecoderAllocs does not allocate once it is warm.
func TestPairDecoderAllocs(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	z, layer, _ := sample(t)
	works := allWork(z, layer)
	var p ztoc.PairDecoder
	run := func() {
		for _, w := range works {
			if p.Len() == 2 {
				if err := p.Next().Err; err != nil {
					t.Fatal(err)
				}
			}
			p.Add(w)
		}
		for w := p.Next(); w != nil; w = p.Next() {
			if w.Err != nil {
				t.Fatal(w.Err)
			}
		}
	}
	run()
	if n := testing.AllocsPerRun(20, run); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

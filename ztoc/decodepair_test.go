// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// work returns the decoding of span id of layer.
func work(z *ztoc.ZInfo, id int, layer []byte) *ztoc.SpanWork {
	s := z.Spans[id]
	return &ztoc.SpanWork{ZInfo: z, ID: id, Src: layer[s.In.Off:s.In.End()], Dst: make([]byte, s.Out.Len)}
}

// pairUp decodes the works with a PairDecoder that is kept full, and fails unless each
// comes back once.
func pairUp(t testing.TB, works []*ztoc.SpanWork) {
	t.Helper()
	var p ztoc.PairDecoder
	var done []*ztoc.SpanWork
	for next := 0; ; {
		for p.Len() < 2 && next < len(works) {
			p.Add(works[next])
			next++
		}
		under := p.Len()
		w := p.Next()
		if w == nil {
			break
		}
		if p.Len() != under-1 {
			t.Fatalf("%d of %d spans under way when one is done", p.Len(), under)
		}
		if slices.Contains(done, w) {
			t.Fatalf("span %d is done twice", w.ID)
		}
		done = append(done, w)
	}
	if len(done) != len(works) || p.Len() != 0 {
		t.Fatalf("%d of %d spans done, %d under way", len(done), len(works), p.Len())
	}
}

// TestPairDecoder decodes the spans of all kinds of layers, in an order that pairs any
// with any, from one byte to many pieces.
func TestPairDecoder(t *testing.T) {
	archive := mustTar(t, append(ztoctest.Files(9, 0)[:17], ztoctest.Big(1, "big", 300000)), ztoctest.TarOptions{Padding: 20000})
	works := allWork(mustBuild(t, archive, ztoc.BuildOptions{SpanSize: 50000}).ZInfo, archive)
	for i, enc := range ztoctest.Encoders() {
		if !enc.Available() {
			continue // TestEncoders reports it
		}
		p, err := enc.Encode(archive)
		if err != nil {
			t.Fatal(err)
		}
		works = append(works, allWork(mustBuild(t, p, ztoc.BuildOptions{SpanSize: int64(20000 * (1 + i%5))}).ZInfo, p)...)
	}
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 1))
		r.Shuffle(len(works), func(i, j int) { works[i], works[j] = works[j], works[i] })
		for _, w := range works {
			clear(w.Dst)
		}
		pairUp(t, works)
		for _, w := range works {
			s := w.ZInfo.Spans[w.ID]
			if w.Err != nil {
				t.Fatalf("seed %d: span %d: %v", seed, w.ID, w.Err)
			}
			if s.Out.Len > 0 && !bytes.Equal(w.Dst, archive[s.Out.Off:s.Out.End()]) {
				t.Fatalf("seed %d: span %d differs", seed, w.ID)
			}
		}
	}
}

// allWork returns the decoding of all spans of layer.
func allWork(z *ztoc.ZInfo, layer []byte) (works []*ztoc.SpanWork) {
	for id := range z.Spans {
		works = append(works, work(z, id, layer))
	}
	return works
}

// TestPairDecoderFault has spans that fail: the others must not notice.
func TestPairDecoderFault(t *testing.T) {
	z, layer, archive := sample(t)
	spoiled := work(z, 1, bytes.Clone(layer))
	for i := len(spoiled.Src) / 2; i < len(spoiled.Src); i++ {
		spoiled.Src[i] ^= 0x5a
	}
	short := work(z, 1, layer)
	short.Dst = short.Dst[:len(short.Dst)-1]
	none := &ztoc.SpanWork{ZInfo: z, ID: len(z.Spans)}
	cut := work(z, 1, layer)
	cut.Src = cut.Src[:len(cut.Src)-1]
	for name, bad := range map[string]*ztoc.SpanWork{"spoiled": spoiled, "short": short, "none": none, "cut": cut} {
		good := []*ztoc.SpanWork{work(z, 0, layer), work(z, 0, layer), work(z, 0, layer)}
		pairUp(t, []*ztoc.SpanWork{good[0], bad, good[1]})
		if bad.Err == nil {
			t.Errorf("%s: no error", name)
		}
		pairUp(t, []*ztoc.SpanWork{bad, good[2]}) // the other way round
		if bad.Err == nil {
			t.Errorf("%s: no error at first place", name)
		}
		for i, w := range good {
			if w.Err != nil || !bytes.Equal(w.Dst, archive[:len(w.Dst)]) {
				t.Errorf("%s: good span %d: %v", name, i, w.Err)
			}
		}
	}
	var fe *ztoc.FormatError
	if !errors.As(spoiled.Err, &fe) {
		t.Errorf("spoiled: %v, want a *FormatError", spoiled.Err)
	}
}

// TestPairDecoderFull takes no third span.
func TestPairDecoderFull(t *testing.T) {
	z, layer, _ := sample(t)
	var p ztoc.PairDecoder
	p.Add(work(z, 0, layer))
	p.Add(work(z, 1, layer))
	defer func() {
		if recover() == nil {
			t.Error("a third span is taken up")
		}
	}()
	p.Add(work(z, 0, layer))
}

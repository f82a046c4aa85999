// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// work returns the decoding of span id of layer.
func work(z *ztoc.ZInfo, id int, layer []byte) *ztoc.SpanWork {
	s := z.Spans[id]
	return &ztoc.SpanWork{ZInfo: z, ID: id, Src: layer[s.In.Off:s.In.End()], Dst: make([]byte, s.Out.Len)}
}

// TestDecodePair pairs spans of all kinds of layers with each other.
func TestDecodePair(t *testing.T) {
	archive := mustTar(t, append(ztoctest.Files(9, 0)[:17], ztoctest.Big(1, "big", 300000)), ztoctest.TarOptions{Padding: 20000})
	type layer struct {
		z     *ztoc.ZInfo
		bytes []byte
	}
	layers := []layer{{mustBuild(t, archive, ztoc.BuildOptions{SpanSize: 50000}).ZInfo, archive}}
	for i, enc := range ztoctest.Encoders() {
		if !enc.Available() {
			continue // TestEncoders reports it
		}
		p, err := enc.Encode(archive)
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, layer{mustBuild(t, p, ztoc.BuildOptions{SpanSize: int64(20000 * (1 + i%5))}).ZInfo, p})
	}
	check := func(w *ztoc.SpanWork) {
		t.Helper()
		s := w.ZInfo.Spans[w.ID]
		if w.Err != nil {
			t.Fatalf("span %d: %v", w.ID, w.Err)
		}
		if s.Out.Len > 0 && !bytes.Equal(w.Dst, archive[s.Out.Off:s.Out.End()]) {
			t.Fatalf("span %d differs", w.ID)
		}
	}
	for i, x := range layers {
		y := layers[(i*7+3)%len(layers)]
		for id := range max(len(x.z.Spans), len(y.z.Spans)) {
			a, b := work(x.z, id%len(x.z.Spans), x.bytes), work(y.z, (id*5+1)%len(y.z.Spans), y.bytes)
			ztoc.DecodePair(a, b)
			check(a)
			check(b)
		}
	}
}

// TestDecodePairFault has one of two that fails: the other must not notice.
func TestDecodePairFault(t *testing.T) {
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
		for range 2 {
			good := work(z, 0, layer)
			a, b := good, bad
			if bad.Err != nil {
				a, b = bad, good // the other way round
			}
			ztoc.DecodePair(a, b)
			if good.Err != nil || !bytes.Equal(good.Dst, archive[:len(good.Dst)]) {
				t.Errorf("%s: the good span: %v", name, good.Err)
			}
			if bad.Err == nil {
				t.Errorf("%s: no error", name)
			}
		}
	}
	var fe *ztoc.FormatError
	if !errors.As(spoiled.Err, &fe) {
		t.Errorf("spoiled: %v, want a *FormatError", spoiled.Err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package peer_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/seekoci/seekoci/benchmark/internal/peer"
	"github.com/seekoci/seekoci/ztoc"
)

// TestKlauspost decodes all spans of a layer, the last one first.
func TestKlauspost(t *testing.T) {
	text := make([]byte, 1<<20)
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range text {
		text[i] = "abcdefgh"[rnd.IntN(8)]
	}
	var archive, layer bytes.Buffer
	w := tar.NewWriter(&archive)
	err := w.WriteHeader(&tar.Header{Name: "text", Mode: 0o644, Size: int64(len(text))})
	_, err2 := w.Write(text)
	z := gzip.NewWriter(&layer)
	if err := errors.Join(err, err2, w.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = z.Write(archive.Bytes())
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	toc, err := ztoc.Build(t.Context(), bytes.NewReader(layer.Bytes()), ztoc.BuildOptions{SpanSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	zi := toc.ZInfo
	if len(zi.Spans) < 8 {
		t.Fatalf("%d spans", len(zi.Spans))
	}
	decode := peer.Klauspost()
	for id := len(zi.Spans) - 1; id >= 0; id-- {
		s := &zi.Spans[id]
		dst := make([]byte, s.Out.Len)
		if err := decode(dst, zi, id, layer.Bytes()[s.In.Off:min(s.In.End()+2, zi.CompressedSize)]); err != nil {
			t.Fatalf("span %d: %v", id, err)
		}
		if !bytes.Equal(dst, archive.Bytes()[s.Out.Off:s.Out.End()]) {
			t.Errorf("span %d: wrong bytes", id)
		}
	}
	s := &zi.Spans[3]
	if err := decode(make([]byte, s.Out.Len), zi, 3, layer.Bytes()[s.In.Off:s.In.Off+s.In.Len/2]); err == nil {
		t.Error("half a span is a whole one")
	}
}

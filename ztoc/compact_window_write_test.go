// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/huff0"
)

// TestPackHuffman has a zstd decoder read what is packed, of all sizes at which the
// headers change their form.
func TestPackHuffman(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	d := borrowDecompressor()
	defer decompressors.Put(d)
	var s huff0.Scratch
	sizes := []int{0, 1, leastPacked - 1, leastPacked, 100, 1<<14 - 1, 1 << 14, 1<<16 + 1<<8 - 1, 1<<16 + 1<<8, 128 << 10, 128<<10 + 1}
	for n := 250; n < 1030; n += 3 {
		sizes = append(sizes, n, n+1)
	}
	packed := 0
	for _, n := range sizes {
		for _, symbols := range []int{1, 2, 7, 60, 256} {
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(min(r.IntN(symbols), r.IntN(symbols), r.IntN(symbols)))
			}
			out := packHuffman(&s, []byte("before"), p)
			if !bytes.HasPrefix(out, []byte("before")) {
				t.Fatalf("%d bytes of %d symbols: %q is before them", n, symbols, out[:6])
			}
			if out = out[6:]; len(out) < n {
				packed++
			} else if len(out) > n || symbols == 7 && n >= 100 && n <= 128<<10 {
				t.Errorf("%d bytes of %d symbols take %d", n, symbols, len(out))
			}
			got := make([]byte, n)
			if err := unpack(d, got, out); err != nil || !bytes.Equal(got, p) {
				t.Errorf("%d bytes of %d symbols: %v", n, symbols, err)
			}
		}
	}
	if packed < len(sizes) {
		t.Errorf("%d of %d got smaller", packed, 5*len(sizes))
	}
}

// TestWindowSpoolFails has the error of a full disk come back from the pass.
func TestWindowSpoolFails(t *testing.T) {
	w := newWindowWriter(MinCompactSpan, newSpool("/nowhere"))
	w.out.block, w.out.limit = 512<<10, 1
	data := make([]byte, 30<<10)
	r := rand.New(rand.NewPCG(4, 4))
	for range 60 {
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		w.begin(1, nil, 0, 0)
		w.add(0, data)
		w.end()
	}
	if err := w.finish(); err == nil {
		t.Error("no error")
	}
}

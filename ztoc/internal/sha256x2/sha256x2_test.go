// SPDX-License-Identifier: Apache-2.0

package sha256x2

import (
	"crypto/sha256"
	"crypto/sha512"
	"hash"
	"math/rand/v2"
	"testing"
)

// TestWrite compares with crypto/sha256, for pieces of any length in any state.
func TestWrite(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	piece := func() []byte {
		off := r.IntN(len(data))
		return data[off : off+r.IntN(min(len(data)-off, 1<<r.IntN(21))+1)]
	}
	for range 300 {
		var got, want [2]hash.Hash
		for i := range got {
			got[i], want[i] = sha256.New(), sha256.New()
		}
		for range 1 + r.IntN(4) {
			p, q := piece(), piece()
			Write(got[0], got[1], p, q)
			want[0].Write(p)
			want[1].Write(q)
		}
		for i := range got {
			if string(got[i].Sum(nil)) != string(want[i].Sum(nil)) {
				t.Fatalf("digest %d differs", i)
			}
		}
	}
}

// TestWriteOther feeds digests whose state it does not know.
func TestWriteOther(t *testing.T) {
	a, b, want := sha512.New(), sha256.New(), sha256.New()
	p := make([]byte, 5000)
	Write(a, b, p, p)
	want.Write(p)
	if sum := sha512.Sum512(p); string(a.Sum(nil)) != string(sum[:]) || string(b.Sum(nil)) != string(want.Sum(nil)) {
		t.Error("digests differ")
	}
}

// BenchmarkWrite counts the bytes of both streams; pair is against one after the other.
func BenchmarkWrite(b *testing.B) {
	x, y := sha256.New(), sha256.New()
	p, q := make([]byte, 512<<10), make([]byte, 512<<10)
	b.Run("pair", func(b *testing.B) {
		b.SetBytes(int64(len(p) + len(q)))
		b.ReportAllocs()
		for b.Loop() {
			Write(x, y, p, q)
		}
	})
	b.Run("single", func(b *testing.B) {
		b.SetBytes(int64(len(p) + len(q)))
		for b.Loop() {
			x.Write(p)
			y.Write(q)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package ztoctest

import (
	"encoding/binary"
	"math/rand/v2"
)

// text returns n bytes of words: they compress about as well as program text does.
func text(r *rand.Rand, n int) []byte {
	const letters = "etaoinshrdlucmfwypvbgkjqxz"
	words := make([][]byte, 300)
	for i := range words {
		w := make([]byte, 2+r.IntN(9))
		for j := range w {
			w[j] = letters[min(r.IntN(26), r.IntN(26))]
		}
		words[i] = w
	}
	p := make([]byte, 0, n+16)
	for len(p) < n {
		p = append(p, words[min(r.IntN(300), r.IntN(300))]...)
		if r.IntN(12) == 0 {
			p = append(p, '\n')
		} else {
			p = append(p, ' ')
		}
	}
	return p[:n:n]
}

// random returns n bytes that do not compress.
func random(r *rand.Rand, n int) []byte {
	p := make([]byte, (n+7)&^7)
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], r.Uint64())
	}
	return p[:n:n]
}

// mixed returns n bytes in which text, random bytes and zeros take turns.
func mixed(r *rand.Rand, n int) []byte {
	p := make([]byte, 0, n)
	for i := 0; len(p) < n; i++ {
		k := min(n-len(p), 1+r.IntN(48<<10))
		switch i % 3 {
		case 0:
			p = append(p, text(r, k)...)
		case 1:
			p = append(p, random(r, k)...)
		default:
			p = append(p, make([]byte, k)...)
		}
	}
	return p
}

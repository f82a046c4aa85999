// SPDX-License-Identifier: Apache-2.0

package ztoctest

import (
	"encoding/binary"
	"math/rand/v2"
)

// Content is data of one kind.
type Content struct {
	Name string // for subtests
	Data []byte
}

// Contents returns size bytes of each kind of data that encoders treat differently.
func Contents(seed uint64, size int) []Content {
	r := rand.New(rand.NewPCG(seed, 2))
	return []Content{
		{"text", text(r, size)},
		{"program", program(r, size)},
		{"zeros", make([]byte, size)},
		{"random", random(r, size)},
		{"periods", periods(r, size)},
		{"mixed", mixed(r, size)},
	}
}

// program returns n bytes that look like a program's: instructions that begin with few
// different bytes, tables of addresses that grow, and names.
func program(r *rand.Rand, n int) []byte {
	p := make([]byte, 0, n+64)
	starts := random(r, 40)
	address := uint64(0x400000)
	for len(p) < n {
		switch r.IntN(6) {
		case 0:
			for range r.IntN(200) {
				address += uint64(8 * r.IntN(64))
				p = binary.LittleEndian.AppendUint64(p, address)
				p = binary.LittleEndian.AppendUint64(p, uint64(r.IntN(9)))
			}
		case 1:
			p = append(p, text(r, r.IntN(2000))...)
		default:
			for range r.IntN(1000) {
				i := min(r.IntN(20), r.IntN(20))
				p = append(p, starts[2*i:2*i+1+i%2]...)
				p = append(p, random(r, i%4)...)
			}
		}
	}
	return p[:n:n]
}

// periods returns n bytes in which short patterns repeat, of all lengths up to 40.
func periods(r *rand.Rand, n int) []byte {
	p := make([]byte, 0, n+600)
	for i := 1; len(p) < n; i++ {
		pattern := random(r, 1+i%40)
		for range 1 + r.IntN(600/len(pattern)) {
			p = append(p, pattern...)
		}
		p = append(p, random(r, r.IntN(4))...)
	}
	return p[:n:n]
}

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

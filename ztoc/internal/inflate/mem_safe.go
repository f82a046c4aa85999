// SPDX-License-Identifier: Apache-2.0

//go:build nounsafe

package inflate

import "encoding/binary"

func load64(p []byte, i int) uint64 { return binary.LittleEndian.Uint64(p[i:]) }

func load8(p []byte, i int) byte { return p[i] }

func store8(p []byte, i int, v byte) { p[i] = v }

func store64(p []byte, i int, v uint64) { binary.LittleEndian.PutUint64(p[i:], v) }

// copy8 and copy16 load all before they store any.

func copy8(p []byte, to, from int) { store64(p, to, load64(p, from)) }

func copy16(p []byte, to, from int) {
	a, b := load64(p, from), load64(p, from+8)
	store64(p, to, a)
	store64(p, to+8, b)
}

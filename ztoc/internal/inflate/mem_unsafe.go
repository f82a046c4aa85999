// SPDX-License-Identifier: Apache-2.0

//go:build !nounsafe

package inflate

import (
	"encoding/binary"
	"unsafe"
)

// Accesses without bounds checks: the slack on either side is the check.

func load64(p []byte, i int) uint64 {
	return binary.LittleEndian.Uint64((*[8]byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(p)), i))[:])
}

func load8(p []byte, i int) byte { return *(*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(p)), i)) }

func store8(p []byte, i int, v byte) {
	*(*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(p)), i)) = v
}

func store64(p []byte, i int, v uint64) {
	binary.LittleEndian.PutUint64((*[8]byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(p)), i))[:], v)
}

// copy8 loads all before it stores any.
func copy8(p []byte, to, from int) { store64(p, to, load64(p, from)) }

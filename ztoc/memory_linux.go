// SPDX-License-Identifier: Apache-2.0

//go:build linux && !race

package ztoc

import "syscall"

// newSlab returns n bytes, in huge pages if there are any. They are not the garbage
// collector's: where it put other things on such pages later, those would stay huge.
func newSlab(n int) []byte {
	const hugePage = 14 // MADV_HUGEPAGE, see madvise(2); package syscall has no name for it
	p, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return make([]byte, n)
	}
	_ = syscall.Madvise(p, hugePage) // or small ones
	return p
}

// freeSlab gives a slab back.
func freeSlab(p []byte) {
	_ = syscall.Munmap(p) // it fails for what make has made
}

// SPDX-License-Identifier: Apache-2.0

//go:build linux && !race

package ztoc

import (
	"syscall"
	"unsafe"
)

// hugePage is the size of one, to whose multiples slabs are rounded: the kernel
// aligns such mappings so that all of them is in huge pages.
const hugePage = 2 << 20

// newSlab returns n zero elements without pointers, in huge pages if there are any, and
// if there is use for most of one. They are not the garbage collector's: where it put other
// things on such pages later, those would stay huge.
func newSlab[T any](n int) []T {
	const adviseHuge = 14 // MADV_HUGEPAGE, see madvise(2); package syscall has no name for it
	size := n * int(unsafe.Sizeof(*new(T)))
	if size < hugePage/2 {
		return make([]T, n)
	}
	size = (size + hugePage - 1) &^ (hugePage - 1)
	p, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return make([]T, n)
	}
	_ = syscall.Madvise(p, adviseHuge) // or small ones
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(p))), n)
}

// freeSlab gives a slab back, of which nothing is used any more.
func freeSlab[T any](s []T) {
	if cap(s) == 0 {
		return
	}
	size := cap(s) * int(unsafe.Sizeof(*new(T)))
	size = (size + hugePage - 1) &^ (hugePage - 1)
	_ = syscall.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), size)) // it fails for what make has made
}

// SPDX-License-Identifier: Apache-2.0

//go:build !linux || race

package ztoc

// newSlab returns n zero elements: of the heap, which the race detector watches.
func newSlab[T any](n int) []T { return make([]T, n) }

// freeSlab gives a slab back.
func freeSlab[T any]([]T) {}

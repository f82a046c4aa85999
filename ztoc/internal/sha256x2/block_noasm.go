// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 || noasm

package sha256x2

const have = false

func block2(a, b *[8]uint32, p, q *byte, n int) { panic("ztoc: internal error: no assembly") }

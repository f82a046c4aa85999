// SPDX-License-Identifier: Apache-2.0

//go:build !noasm

package sha256x2

// have says that the CPU has the instructions.
var have = supported()

// supported asks for SSSE3, SSE4.1 and SHA.
func supported() bool {
	const (
		ssse3, sse41 = 1 << 9, 1 << 19
		sha          = 1 << 29
	)
	if max, _, _, _ := cpuid(0, 0); max < 7 {
		return false
	}
	_, _, ecx, _ := cpuid(1, 0)
	_, ebx, _, _ := cpuid(7, 0)
	return ecx&ssse3 != 0 && ecx&sse41 != 0 && ebx&sha != 0
}

// block2 adds n blocks each, at p and q, to the states a and b.
//
//go:noescape
func block2(a, b *[8]uint32, p, q *byte, n int)

func cpuid(leaf, sub uint32) (eax, ebx, ecx, edx uint32)

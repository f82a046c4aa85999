// SPDX-License-Identifier: Apache-2.0

package ztoc

import "syscall"

// adviseHuge asks for huge pages. Where there are none nothing changes.
func adviseHuge(p []byte) {
	const hugePage = 14 // MADV_HUGEPAGE, see madvise(2); package syscall has no name for it
	_ = syscall.Madvise(p, hugePage)
}

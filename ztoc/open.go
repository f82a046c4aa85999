// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"iter"
	"slices"
)

// Len is the number of entries.
func (z *ZTOC) Len() int { return len(z.TOC) }

// Entries yields the entries in tar order, with their numbers.
func (z *ZTOC) Entries() iter.Seq2[int, Entry] { return slices.All(z.TOC) }

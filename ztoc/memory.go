// SPDX-License-Identifier: Apache-2.0

package ztoc

import "sync"

// The sizes of what a pass hands from stage to stage.
const (
	chunkBytes = headroom + chunkSize
	pieceBytes = windowSize + pieceSize + pieceSlack // history, data and room behind
)

// memory is what the chunks and pieces of a pass are made of: one allocation, in huge
// pages where the system has them. A small layer is read before all of it has been
// used once, and a page fault for every 4 KiB was a tenth of the time.
type memory struct {
	chunks, pieces []byte // that are left
}

// memories keeps idle slabs of memory, which all have the same size.
var memories sync.Pool

const slabSize = chunks*chunkBytes + pieces*pieceBytes

// borrowMemory returns a slab for a pass. It goes back to memories when nothing uses it any more.
func borrowMemory() *[]byte {
	if p, ok := memories.Get().(*[]byte); ok {
		return p
	}
	p := make([]byte, slabSize)
	adviseHuge(p)
	return &p
}

func newMemory(slab []byte) memory {
	return memory{chunks: slab[:chunks*chunkBytes], pieces: slab[chunks*chunkBytes:]}
}

// chunk returns the memory of a chunk. It is for the first stage.
func (m *memory) chunk() []byte { return take(&m.chunks, chunkBytes) }

// piece returns the memory of a piece. It is for the second stage.
func (m *memory) piece() []byte { return take(&m.pieces, pieceBytes) }

// take cuts n bytes from p.
func take(p *[]byte, n int) []byte {
	b := (*p)[:n:n]
	*p = (*p)[n:]
	return b
}

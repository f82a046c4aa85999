// SPDX-License-Identifier: Apache-2.0

package ztoc

import "github.com/seekoci/seekoci/ztoc/internal/inflate"

// The sizes of what a pass hands from stage to stage.
const (
	chunkBytes = headroom + chunkSize
	pieceBytes = windowSize + pieceSize + pieceSlack // history, data and room behind
)

// memory is what the chunks and pieces of a pass are made of: one slab, in huge pages
// where the system has them. A small layer is read before all of it has been used
// once, and a page fault for every 4 KiB was a tenth of the time.
type memory struct {
	slab           []byte
	chunks, pieces []byte // that are left

	allRefs, refs []inflate.Ref // matches of pieces, and those that are left; made when they are needed
}

const slabSize = chunks*chunkBytes + pieces*pieceBytes

// newMemory returns the memory of a pass, to be freed when nothing uses it any more.
func newMemory() memory {
	p := newSlab[byte](slabSize)
	return memory{slab: p, chunks: p[:chunks*chunkBytes], pieces: p[chunks*chunkBytes:]}
}

// free gives the memory back.
func (m *memory) free() {
	freeSlab(m.slab)
	freeSlab(m.allRefs)
	*m = memory{}
}

// chunk returns the memory of a chunk. It is for the first stage.
func (m *memory) chunk() []byte { return take(&m.chunks, chunkBytes) }

// piece returns the memory of a piece. It is for the second stage.
func (m *memory) piece() []byte { return take(&m.pieces, pieceBytes) }

// trace returns the memory of the matches of a piece. It is for the second stage.
func (m *memory) trace() []inflate.Ref {
	if m.allRefs == nil {
		m.allRefs = newSlab[inflate.Ref](pieces * maxRefs)
		m.refs = m.allRefs
	}
	return take(&m.refs, maxRefs)[:0]
}

// take cuts n elements from p.
func take[T any](p *[]T, n int) []T {
	b := (*p)[:n:n]
	*p = (*p)[n:]
	return b
}

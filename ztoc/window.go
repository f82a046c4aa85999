// SPDX-License-Identifier: Apache-2.0

package ztoc

import "github.com/seekoci/seekoci/ztoc/internal/inflate"

// blockHead is the header of the deflate block in whose middle a span begins. It
// begins at bit start (0-7) of p; p is nil where the span begins with a block.
type blockHead struct {
	p     []byte
	start uint8
}

// window fills the history before span id, oldest byte first, and returns the
// header of the block that the span begins in. Bytes that the span does not refer
// to may be zero. The header is valid until buf is used again.
func (z *ZInfo) window(id int, buf *[inflate.WindowSize]byte) (blockHead, error) {
	n := copy(buf[:], z.Spans[id].Window)
	clear(buf[n:])
	return blockHead{}, nil
}

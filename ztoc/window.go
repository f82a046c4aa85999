// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"fmt"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

// maxBlockHead is more bytes than the header of any deflate block has.
const maxBlockHead = 320

// blockHead is the header of the deflate block in whose middle a span begins; n is
// 0 where the span begins with a block.
type blockHead struct {
	p [maxBlockHead]byte
	n int // bytes
}

// window fills the history before span id, oldest byte first, and sets head to the
// header of the block that the span begins in. Bytes that the span does not refer
// to may be zero.
func (z *ZInfo) window(id int, buf *[inflate.WindowSize]byte, head *blockHead) error {
	head.n = 0
	if z.windows == nil {
		n := copy(buf[:], z.Spans[id].Window)
		clear(buf[n:])
		return nil
	}
	if err := z.windows.fill(id, buf, head); err != nil {
		return fmt.Errorf("window: %w", err)
	}
	return nil
}

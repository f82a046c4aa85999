// SPDX-License-Identifier: Apache-2.0

package span

import (
	"errors"
	"fmt"
	"strings"

	"github.com/seekoci/seekoci/ztoc"
)

const (
	// maxSpan bounds the compressed and the uncompressed bytes of one span.
	maxSpan = 256 << 20
	// Spans have at least meanSpan bytes on average, compressed and uncompressed ones
	// together, but for the first maxTinySpans: each costs memory, and a read of many a
	// lot of work, which is not to be had for nothing.
	meanSpan     = 1 << 10
	maxTinySpans = 4 << 10
)

func checkKey(key string) error {
	if key == "" || len(key) > 255 || key[0] == '.' || strings.ContainsAny(key, "/\x00") {
		return errors.New("key is not a plain file name")
	}
	return nil
}

// checkZInfo checks what the planner relies on; whatever made zi may have been less strict.
func checkZInfo(zi *ztoc.ZInfo, size int64) error {
	if zi.CompressedSize != size {
		return fmt.Errorf("%w: compressed size %d, source has %d bytes", ErrSpans, zi.CompressedSize, size)
	}
	if zi.UncompressedSize < 0 {
		return fmt.Errorf("%w: uncompressed size %d", ErrSpans, zi.UncompressedSize)
	}
	if n := int64(len(zi.Spans)); n > maxTinySpans+zi.CompressedSize/meanSpan+zi.UncompressedSize/meanSpan {
		return fmt.Errorf("%w: %d spans of %d bytes, %d compressed, are too many", ErrSpans, n, zi.UncompressedSize, zi.CompressedSize)
	}
	var end int64
	for i := range zi.Spans {
		sp := &zi.Spans[i]
		if sp.Out.Len == 0 && sp.Out.Off >= zi.UncompressedSize && end == zi.UncompressedSize {
			continue // padding behind the tar, which no reader asks for
		}
		if sp.Out.Off != end || sp.Out.Len < 0 || sp.Out.Len > maxSpan {
			return fmt.Errorf("%w: span %d holds [%d,+%d) of the tar, expected to start at %d", ErrSpans, i, sp.Out.Off, sp.Out.Len, end)
		}
		if sp.In.Off < 0 || sp.In.Len < 0 || sp.In.Len > maxSpan || sp.In.Off > size-sp.In.Len {
			return fmt.Errorf("%w: span %d is [%d,+%d) of %d bytes", ErrSpans, i, sp.In.Off, sp.In.Len, size)
		}
		end = sp.Out.End()
	}
	if end < zi.UncompressedSize {
		return fmt.Errorf("%w: spans end at %d of %d bytes", ErrSpans, end, zi.UncompressedSize)
	}
	return nil
}

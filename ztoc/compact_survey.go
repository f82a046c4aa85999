// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"errors"
	"fmt"
	"io"
)

// errNoCompact says that a survey was not asked for compact spans.
var errNoCompact = errors.New("surveyed without a compact span size")

// WriteCompact writes the layer's compact zTOC to w. One of more than MaxSize bytes
// is ErrLimit, before anything is written. It needs some 60 to 120 bytes of memory for
// each entry. It may run at the same time as WriteZTOC.
func (s *Survey) WriteCompact(w io.Writer) error {
	if s.compactSize == 0 {
		return fmt.Errorf("write compact zTOC: %w", errNoCompact)
	}
	z, err := s.compactInfo()
	if err != nil {
		return fmt.Errorf("write compact zTOC: %w", err)
	}
	src := compactSource{layer: s.layer, diffID: s.diffID, buildTool: s.tool, zinfo: z, count: s.Len()}
	src.entries = s.tape.all(tapeReader{}, &src.readErr)
	if z.Compression == Gzip {
		src.windows = s.planner.out
	}
	if err := src.write(w); err != nil {
		return fmt.Errorf("write compact zTOC: %w", err)
	}
	return nil
}

// compactInfo returns the compact spans, without windows.
func (s *Survey) compactInfo() (*ZInfo, error) {
	z := &ZInfo{
		Compression: s.zinfo.Compression, SpanSize: s.compactSize,
		CompressedSize: s.zinfo.CompressedSize, UncompressedSize: s.zinfo.UncompressedSize,
		Spans: make([]Span, len(s.compactSums)),
	}
	for i := range z.Spans {
		if z.Compression == Gzip {
			z.Spans[i] = s.planner.spans[i]
		} else {
			off := int64(i) * z.SpanSize
			z.Spans[i] = Span{In: Range{Off: off}, Out: Range{Off: off}}
		}
		z.Spans[i].Sum = s.compactSums[i]
	}
	if err := z.setInLens(); err != nil {
		return nil, err
	}
	return z, z.check()
}

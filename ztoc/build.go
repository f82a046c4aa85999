// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Defaults of BuildOptions, the incumbent's.
const (
	DefaultSpanSize  = 4 << 20
	DefaultBuildTool = "AWS SOCI CLI v0.2"
	// EveryBlock as a span size puts a checkpoint at every deflate block (span size 0 on the wire and the command line).
	EveryBlock = -1
)

const version = "0.9"

// BuildOptions configures Build.
type BuildOptions struct {
	SpanSize    int64       // target uncompressed bytes a span; 0 means DefaultSpanSize
	Compression Compression // of the layer; 0 means detect from its first bytes
	BuildTool   string      // recorded in the zTOC; "" means DefaultBuildTool
}

// Build reads a layer once from r to its end and returns its zTOC. Beside the
// zTOC itself it needs about 20 MiB of memory, and what the records of one entry's
// PAX header take while that is read, which has up to 1 MiB.
//
// r is read from the calling goroutine, ahead of what is looked at; a fault is
// reported when the read under way has returned. A fault of the layer is a
// *FormatError, or an error that matches ErrUnsupported or ErrLimit; a failing read
// of r and the end of ctx come back wrapped.
func Build(ctx context.Context, r io.Reader, opts BuildOptions) (*ZTOC, error) {
	z := &ZTOC{Version: version}
	var windows [][]byte
	pass, tool, err := opts.pass()
	if err != nil {
		return nil, err
	}
	pass.entry = func(e *Entry) error {
		z.TOC = append(z.TOC, *e)
		return nil
	}
	pass.window = func(p []byte) error {
		var w []byte
		if p != nil {
			w = make([]byte, windowSize)
			copy(w[windowSize-len(p):], p)
		}
		windows = append(windows, w)
		return nil
	}
	res, err := pass.run(ctx, r)
	if err != nil {
		return nil, layerError(err)
	}
	z.BuildTool, z.ZInfo = tool, res.zinfo
	for i, w := range windows { // none if the layer is not compressed
		z.ZInfo.Spans[i].Window = w
	}
	return z, nil
}

// pass returns the options of a pass for a zTOC 0.9, and the tool it is to name.
func (o BuildOptions) pass() (passOptions, string, error) {
	p := passOptions{spanSize: o.SpanSize, compression: o.Compression}
	switch {
	case o.SpanSize == 0:
		p.spanSize = DefaultSpanSize
	case o.SpanSize == EveryBlock:
		p.spanSize = 0
	case o.SpanSize < 0:
		return p, "", fmt.Errorf("span size %d: %w", o.SpanSize, ErrUnsupported)
	}
	tool := o.BuildTool
	if tool == "" {
		tool = DefaultBuildTool
	}
	return p, tool, nil
}

// layerError names the operation in an error of a pass.
func layerError(err error) error {
	if re := (*readError)(nil); errors.As(err, &re) {
		return re
	}
	return fmt.Errorf("index layer: %w", err)
}

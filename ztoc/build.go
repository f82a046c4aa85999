// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"context"
	"io"
)

// Defaults of BuildOptions, the incumbent's.
const (
	DefaultSpanSize  = 4 << 20
	DefaultBuildTool = "AWS SOCI CLI v0.2"
	// EveryBlock as a span size puts a checkpoint at every deflate block (span size 0 on the wire and the command line).
	EveryBlock = -1
)

// BuildOptions configures Build.
type BuildOptions struct {
	SpanSize    int64       // target uncompressed bytes a span; 0 means DefaultSpanSize
	Compression Compression // of the layer; 0 means detect from its first bytes
	BuildTool   string      // recorded in the zTOC; "" means DefaultBuildTool
}

// Build reads a layer once from r to its end and returns its zTOC.
func Build(ctx context.Context, r io.Reader, opts BuildOptions) (*ZTOC, error) {
	panic("not yet")
}

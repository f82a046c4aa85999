// SPDX-License-Identifier: Apache-2.0

package ztoc

import "github.com/seekoci/seekoci/ztoc/internal/inflate"

// windowSize is the history that a checkpoint carries.
const windowSize = inflate.WindowSize

// The compact zTOC's checkpoints lie on a grid, so that the inflating stage knows
// where to trace without waiting for the planner: the checkpoint of grid point
// k*S, S being the compact span size, is one of (k*S-zoneOf(S), k*S].
const (
	maxZone = 1 << 20
	// maxHeld bounds the compressed bytes that wait for the planner to settle
	// where a span ends. Blocks can take input without giving output: a planner
	// whose first open candidate lies this far back must choose.
	maxHeld = 4 << 20
)

// zoneOf returns how far before a grid point the candidates of compact span size s may lie.
func zoneOf(s int64) int64 { return min(s/6, maxZone) }

// piece is a run of the layer's uncompressed bytes, in the order of the layer and
// without gap. The whole of it belongs to a buffer that is used again: keep
// nothing of it but copies.
type piece struct {
	hist, data []byte       // the up to 32 KiB before data, and data; contiguous in memory
	off        int64        // uncompressed offset of data[0]
	bit        int64        // compressed position behind data, in bits: all later blocks and refs are at or behind it
	blocks     []blockStart // that begin in [off, off+len(data)] and have not been in an earlier piece, in order
	refs       refs         // the traced matches that begin in data, in order
	ends       []memberEnd  // of gzip members whose last byte is in data, or just before it
}

// blockStart is where a deflate block begins: a candidate for a checkpoint.
type blockStart struct {
	out        int64  // uncompressed offset
	bit        int64  // compressed position of the block's header, in bits
	header     []byte // the block's header; its first bit is bit%8 of header[0]
	headerBits int    // length of the header
	member     bool   // the block is the first of a gzip member: no match reaches behind it
}

// refs are matches as the inflater noted them. Consecutive runs have the matches in
// order, all of them.
type refs struct {
	list []inflate.Ref
	runs []refRun
}

// refRun is a run of n matches whose Pos and Bit are relative to out, an
// uncompressed offset, and bit, a compressed position in bits.
type refRun struct {
	n        int
	out, bit int64
}

// add takes the matches that have been noted in list, behind its length.
func (r *refs) add(n int, out, bit int64) {
	r.list = r.list[:len(r.list)+n]
	if k := len(r.runs) - 1; k >= 0 && r.runs[k].out == out && r.runs[k].bit == bit {
		r.runs[k].n += n
		return
	}
	r.runs = append(r.runs, refRun{n, out, bit})
}

// memberEnd is the end of a gzip member, with what its trailer says.
type memberEnd struct {
	out       int64 // uncompressed offset
	off       int64 // compressed offset of the trailer
	crc, size uint32
}

// cut is the border of two spans in compressed bytes: what lies before end belongs
// to the span that ends, what lies from start on to the one that begins. start is
// end, or the byte before where they share one.
type cut struct {
	start, end int64
}

// cutAt returns the cut at a compressed position in bits.
func cutAt(bit int64) cut { return cut{start: bit / 8, end: (bit + 7) / 8} }

// What the pass expects of the planner of compact spans, one call after the other
// from one goroutine:
//
//	newPlanner(spanSize int64, windows *spool) *planner
//	(*planner).add(p *piece) (cuts []cut, settled int64, err error)
//	(*planner).finish(out int64) (cuts []cut, err error) // out: size of all uncompressed bytes
//
// add takes the next piece; cuts are the borders it now knows, in order, the first
// span's start among them, valid until the next call. settled promises that no
// later cut has a start before it; it is never below p.bit/8 - maxHeld. The digests
// of the spans, one for each cut, are in Survey.compactSums when the pass is done.

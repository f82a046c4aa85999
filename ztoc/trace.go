// SPDX-License-Identifier: Apache-2.0

package ztoc

import "math"

// tracer has the inflater note the matches that the planner of compact spans needs:
// those from a zone's begin on, because it may choose one of them as a checkpoint,
// and those up to a window behind the zone that reach back into it or before it.
type tracer struct {
	size   int64 // compact span size; 0: no tracing
	point  int64 // the next grid point
	border int64 // uncompressed offset at which tracing begins or ends next
	on     bool
}

func newTracer(size int64) tracer {
	if size == 0 {
		return tracer{border: math.MaxInt64}
	}
	t := tracer{size: size, point: size, border: size - zoneOf(size)}
	if t.border <= windowSize { // one zone begins before the trace of another ends
		t.on, t.point, t.border = true, math.MaxInt64, math.MaxInt64
	}
	return t
}

// stop switches tracing where it begins or ends, and returns the position in the
// buffer of u at which to stop inflating.
func (t *tracer) stop(u *unpacker) int {
	const end = windowSize + pieceSize
	for u.out() >= t.border {
		if t.on = !t.on; t.on {
			t.border = t.point + windowSize
		} else {
			t.point += t.size
			t.border = t.point - zoneOf(t.size)
		}
		u.arm()
	}
	if t.border-u.w.off >= pieceSize {
		return end
	}
	return windowSize + int(t.border-u.w.off)
}

// arm tells the inflater what to trace from here on: right into the piece.
func (u *unpacker) arm() {
	if t := &u.trace; t.on {
		refs := &u.w.refs
		if refs.list == nil {
			refs.list = u.p.memory.trace()
		}
		soft := t.point - u.w.off + int64(windowSize-u.lo)
		u.dec.Trace(refs.list[len(refs.list):], int(max(0, min(soft, math.MaxInt32))))
	} else if t.size > 0 {
		u.dec.Trace(nil, 0)
	}
}

// collect counts what the inflater has noted among the matches of the piece.
func (t *tracer) collect(u *unpacker) {
	if n := len(u.dec.Refs()); t.on && n > 0 {
		u.w.refs.add(n, u.w.off+int64(u.lo-windowSize), u.in.base*8)
		u.arm()
	}
}

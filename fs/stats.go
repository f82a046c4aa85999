// SPDX-License-Identifier: Apache-2.0

package fs

import "sync/atomic"

// Stats is a copy of the file system's counters.
type Stats struct {
	Layers      int   // attached
	Held        int   // detached, but still in use
	Reads       int64 // READ requests since Mount
	Spliced     int64 // of them answered with pages of the layer's file, without copying them
	BytesRead   int64 // by all of them
	ReadErrors  int64 // of them answered with EIO
	Interrupted int64 // of them ended because the reader was killed
	Guarded     int64 // READ requests for privileged files that came before a verdict on their layer
	Panics      int64 // requests that panicked and were answered with EIO
	TreeMemory  int64 // bytes of the file trees
}

// counters are the atomics behind Stats.
type counters struct {
	reads, spliced, bytes, errors, interrupted, guarded, panics atomic.Int64
}

// Stats returns the counters.
func (f *FS) Stats() Stats {
	t := f.table.Load()
	return Stats{
		Layers:      len(t.names),
		Held:        len(t.slots) - len(t.names),
		Reads:       f.stats.reads.Load(),
		Spliced:     f.stats.spliced.Load(),
		BytesRead:   f.stats.bytes.Load(),
		ReadErrors:  f.stats.errors.Load(),
		Interrupted: f.stats.interrupted.Load(),
		Guarded:     f.stats.guarded.Load(),
		Panics:      f.stats.panics.Load(),
		TreeMemory:  f.trees.used.Load(),
	}
}

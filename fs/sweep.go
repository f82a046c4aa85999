// SPDX-License-Identifier: Apache-2.0

package fs

import "time"

// sweepEvery is how often the kernel is asked to forget detached layers, and layers
// are looked at that may have become complete.
const sweepEvery = 10 * time.Second

// sweeper sweeps until Close.
func (f *FS) sweeper() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.sweep()
			f.setReadAhead()
		case <-f.done:
			return
		}
	}
}

// sweep asks the kernel to forget what is not in use any more of the detached
// layers. It does not do so by itself when a file of theirs is closed, and Detach
// could not ask for files that were open then.
func (f *FS) sweep() {
	for _, l := range f.table.Load().slots {
		if !l.detached.Load() {
			continue
		}
		// Each name, as one that the kernel has dropped hides those below it. A directory
		// that it does not know has none below it that it knows.
		for i := range l.tree.nodes {
			d := ref{l, uint32(i)}
			if !d.node().isDir() || !f.server.known(d.id()) {
				continue
			}
			first, end := d.node().children()
			for c := first; c < end; c++ {
				f.server.entryGone(d.id(), l.tree.name(&l.tree.nodes[c]))
			}
		}
		f.release(l)
	}
}

// unknown reports whether the kernel has forgotten all files of a layer. It asks it for each.
func (f *FS) unknown(l *layer) bool {
	before := l.looked.Load()
	for i := range l.tree.nodes {
		if f.server.known(ref{l, uint32(i)}.id()) {
			return false
		}
	}
	return l.looked.Load() == before // what was looked up meanwhile may have been passed already
}

// release frees a detached layer that the kernel holds no more references on.
func (f *FS) release(l *layer) {
	if !l.detached.Load() || (l.before && !f.unknown(l)) || (!l.before && l.lookups.Load() > 0) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.table.Load().slots[l.slot] != l {
		return // Close frees it, or someone else has
	}
	t := f.table.Load().clone()
	t.changed = f.table.Load().changed // the root's names are the same
	delete(t.slots, l.slot)
	f.store(t)
	f.wg.Go(func() { f.free(l) }) // closing may wait for reads, and this may be a request
}

// free lets go of a layer's data.
func (f *FS) free(l *layer) {
	f.trees.used.Add(-l.tree.memory)
	if err := l.data.Close(); err != nil {
		f.opts.Log.Warn("layer data not closed", "layer", l.name, "error", err)
	}
}

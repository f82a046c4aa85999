// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"errors"
	"path/filepath"
)

// heal opens the files of layers that were opened while the disk could not be written to, if that
// has become better, and reports whether any is written to now that was not before.
func (s *Store) heal(ctx context.Context) (healed bool) {
	s.mu.Lock()
	var ill []*Layer
	for l := range s.open {
		if l.disk.unwritable.Load() {
			ill = append(ill, l)
		}
	}
	s.mu.Unlock()
	for _, l := range ill {
		if ctx.Err() != nil || !l.enter() {
			continue
		}
		// What is wrong with the disk shows again where something is written.
		if l.heal() == nil {
			healed = true
		}
		l.leave()
	}
	return healed
}

// heal opens the layer's files again, to be written to. What they do not have any more of
// what was there is absent then.
func (l *Layer) heal() error {
	l.unsynced.syncing.Lock() // else somebody may be waiting for the old files to be written
	defer l.unsynced.syncing.Unlock()
	if !l.disk.unwritable.Load() {
		return errors.New("not ill any more")
	}
	fresh, sums, err := l.reopen()
	if err != nil {
		return err
	}
	l.disk.holes.Lock()
	defer l.disk.holes.Unlock()
	l.reading.Lock()
	defer l.reading.Unlock()
	old := l.sums
	l.sums = sums
	for i := range l.spans {
		if l.zi.Spans[i].Out.Len == 0 {
			continue
		}
		sum, ok := sums[i]
		switch was := l.spans[i].Load(); {
		case was == absent && ok:
			l.mark(i, absent, recorded)
		case was != absent && (!ok || sum != old[i]):
			l.mark(i, was, absent)
		case was == present:
			l.mark(i, present, recorded) // it was read from a file that may not be this one
		}
	}
	data, state := l.disk.data, l.disk.state
	l.disk.data, l.disk.state = fresh.data, fresh.state
	l.disk.unwritable.Store(false)
	_, _ = data.Close(), state.Close() // nothing was written there
	return nil
}

// reopen opens the layer's files. Those of a layer that was removed are not its own any more.
func (l *Layer) reopen() (*disk, map[int]uint32, error) {
	s := l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.layers[l.key] != l {
		return nil, nil, errors.New("removed")
	}
	return openWritable(filepath.Join(s.dir, l.key), l.identity, len(l.spans), l.disk.size)
}

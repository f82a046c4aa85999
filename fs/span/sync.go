// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// syncEvery is how often the keeper asks what has become of spans that were written.
const syncEvery = time.Second

// errLost says that the disk has refused bytes after it took them: they are gone.
var errLost = fmt.Errorf("%w: the disk has lost what was written", ErrUnwritten)

// unsynced are the spans that were written, or checked, and of which it is not known whether
// the disk has taken them.
type unsynced struct {
	syncing sync.Mutex    // the kernel reports an error once: whoever is told acts on it before others ask
	losses  atomic.Uint64 // how often spans were lost

	mu  sync.Mutex // guards what follows
	ids []int32
}

// add notes that span i is about to be written, or has been found where the kernel has it.
func (u *unsynced) add(i int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ids = append(u.ids, int32(i))
}

func (u *unsynced) len() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.ids)
}

// take forgets the first n spans and returns them.
func (u *unsynced) take(n int) []int32 {
	u.mu.Lock()
	defer u.mu.Unlock()
	ids := u.ids[:n:n]
	u.ids = append([]int32(nil), u.ids[n:]...)
	return ids
}

// sync waits until the disk has all that was written of the layer. What it has lost is absent
// then, and the error matches errLost. No reader waits for it.
func (l *Layer) sync() error {
	u := &l.unsynced
	u.syncing.Lock()
	defer u.syncing.Unlock()
	n := u.len()
	if n == 0 {
		return nil
	}
	err := l.disk.sync()
	if err == nil {
		u.take(n)
		return nil
	}
	l.lose()
	err = fmt.Errorf("%w: %w", errLost, err)
	l.store.room.fail(err)
	return err
}

// lose notes that no span is there that was written or checked since the last sync. Which of
// them the disk has lost the kernel does not say.
func (l *Layer) lose() {
	l.disk.holes.Lock() // what is just being written may be lost, too
	defer l.disk.holes.Unlock()
	ids := l.unsynced.take(l.unsynced.len())
	l.stats.writeErrors.Add(int64(len(ids)))
	l.unsynced.losses.Add(1)
	l.reading.Lock()
	for _, i := range ids {
		l.mark(int(i), present, absent)
	}
	l.reading.Unlock()
	for _, i := range ids {
		if l.spans[i].Load() == absent {
			l.disk.forget(int(i), int(i)+1)
		}
	}
}

// sync waits until the kernel has written the data file to disk, and returns what it could not
// write since it was last asked. That takes the bytes alone: fdatasync would have others wait for
// the file system's journal.
func (d *disk) sync() error {
	if d.syncFile != nil {
		return d.syncFile()
	}
	f, ok := d.data.(*os.File)
	if !ok {
		return nil // nothing is written there
	}
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	err := unix.SyncFileRange(int(f.Fd()), 0, 0, all)
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP):
		return nil // a file system that does not tell
	case err != nil:
		return os.NewSyscallError("sync_file_range", err)
	}
	return nil
}

// sync syncs all layers, and returns the last error.
func (s *Store) sync(ctx context.Context) (err error) {
	s.mu.Lock()
	open := make([]*Layer, 0, len(s.open))
	for l := range s.open {
		if l.unsynced.len() > 0 {
			open = append(open, l)
		}
	}
	s.mu.Unlock()
	for _, l := range open {
		if ctx.Err() != nil || !l.enter() {
			continue
		}
		if e := l.sync(); e != nil {
			err = e
		}
		l.leave()
	}
	return err
}

// unsynced reports whether there is something to sync.
func (s *Store) unsynced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.open {
		if l.unsynced.len() > 0 {
			return true
		}
	}
	return false
}

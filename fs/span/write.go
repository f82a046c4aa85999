// SPDX-License-Identifier: Apache-2.0

package span

import (
	"errors"
	"fmt"
	"os"
)

// ErrUnwritten is returned by Fill, FillSum and Prefetch for spans that could be fetched, but not be written
// to disk.
var ErrUnwritten = errors.New("span not written to disk")

// put writes down the bytes p of span i. If that cannot be done, they are kept in memory
// for a while; the error matches ErrUnwritten.
func (l *Layer) put(i int, p []byte) error {
	err := l.write(i, p)
	if err == nil {
		return nil
	}
	l.stats.writeErrors.Add(1)
	l.store.kept.add(l, i, p)
	l.store.room.fail(err)
	return fmt.Errorf("%w: %w", ErrUnwritten, err)
}

// write writes down the bytes p of span i, if there is room.
func (l *Layer) write(i int, p []byte) error {
	if err := l.store.room.admit(int64(len(p))); err != nil {
		return err
	}
	l.disk.holes.RLock()
	defer l.disk.holes.RUnlock()
	if err := l.mend(); err != nil {
		return err
	}
	l.unsynced.add(i)
	l.store.room.dirty()
	if err := l.disk.write(i, l.zi.Spans[i].Out.Off, p); err != nil {
		return err
	}
	if err := l.mended(); err != nil {
		return err
	}
	l.mark(i, absent, present)
	l.store.kept.drop(l, i)
	return nil
}

// noFile stands for a file that cannot be opened: the layer is served from memory until heal opens it.
type noFile struct{ err error }

func (f noFile) ReadAt([]byte, int64) (int, error) { return 0, f.err }

// The error is this file's alone: others may be written to again before it is.
func (f noFile) WriteAt([]byte, int64) (int, error) { return 0, fmt.Errorf("not opened: %v", f.err) }
func (noFile) Close() error                         { return nil }

// readOnly is a file on a disk that cannot be written to any more.
type readOnly struct {
	*os.File
	err error // of opening it to write
}

func (f readOnly) WriteAt([]byte, int64) (int, error) { return 0, fmt.Errorf("read only: %v", f.err) }

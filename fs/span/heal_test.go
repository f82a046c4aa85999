// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// mustFallIll has a layer have the files that it would have if it had been opened while the disk could
// not be written to: such that can be read only, or none.
func mustFallIll(t *testing.T, l *Layer, dir string, readable bool) {
	t.Helper()
	data, state := file(noFile{unix.ENOSPC}), file(noFile{unix.ENOSPC})
	if readable {
		for name, f := range map[string]*file{"data": &data, "state": &state} {
			ro, err := os.Open(filepath.Join(dir, l.key, name))
			must(t, err)
			*f = readOnly{ro, unix.EROFS}
		}
	}
	must(t, l.disk.close())
	l.disk.data, l.disk.state = data, state
}

// TestHeal has layers that could not be written to get their files, and keep what was there.
func TestHeal(t *testing.T) {
	const size = 10_000
	d := plainLayer(8, size)
	for name, c := range map[string]struct {
		readable bool
		spoil    func(t *testing.T, dir string) // while the layer is ill
		fetched  int64                          // of nine spans: two were there, and one is kept meanwhile
	}{
		"no file":     {spoil: func(t *testing.T, dir string) { must(t, os.RemoveAll(filepath.Join(dir, "layer"))) }, fetched: 8},
		"hidden file": {fetched: 6},
		"read only":   {readable: true, fetched: 6},
		"files gone":  {readable: true, spoil: func(t *testing.T, dir string) { must(t, os.RemoveAll(filepath.Join(dir, "layer"))) }, fetched: 8},
		"state is another's": {readable: true, spoil: func(t *testing.T, dir string) {
			must(t, os.WriteFile(statePath(dir), []byte("of somebody else"), 0o600))
		}, fetched: 8},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := mustOpen(t, dir, Options{Quiet: now})
			l := mustLayer(t, s, d, d.source())
			span := func(i int) []byte { return d.plain[i*size:][:size] }
			for i := range 2 {
				must(t, l.write(i, span(i)))
			}
			must(t, l.Close())
			l = mustLayer(t, s, d, d.source())
			if !c.readable { // nothing is known of what is there
				for i := range 2 {
					l.mark(i, recorded, absent)
				}
				l.sums = nil
			}
			mustFallIll(t, l, dir, c.readable)
			if c.spoil != nil {
				c.spoil(t, dir)
			}
			if err := l.put(4, span(4)); !errors.Is(err, ErrUnwritten) || s.Stats().KeptBytes != size {
				t.Fatalf("%v, %d bytes kept", err, s.Stats().KeptBytes)
			}
			l.disk.unwritable.Store(true) // not before: the keeper may look any time
			s.room.look(t.Context())
			if n := s.Stats().KeptBytes; n != 0 || l.disk.unwritable.Load() {
				t.Errorf("%d bytes are kept, unwritable: %v", n, l.disk.unwritable.Load())
			}
			must(t, l.Fill(t.Context()))
			mustRead(t, l, d, 0, int64(len(d.plain)))
			mustExtent(t, l, 0, l.Size()).Release()
			if n := s.Stats().Bytes; n != int64(len(d.plain)) {
				t.Errorf("%d bytes counted", n)
			}
			if n := l.Stats().SpansFetched; n != c.fetched {
				t.Errorf("%d spans fetched, want %d", n, c.fetched)
			}
			must(t, l.Close())
			src := d.source()
			l = mustLayer(t, s, d, src)
			mustRead(t, l, d, 0, int64(len(d.plain)))
			if n := src.requests(); n != 0 {
				t.Errorf("%d requests for what was written", n)
			}
			must(t, l.Close())
		})
	}
}

// TestHealRemoved holds that a layer that was removed while it could not be written to takes no
// files: they would be those of another one.
func TestHealRemoved(t *testing.T) {
	d := plainLayer(4, 1000)
	dir := t.TempDir()
	s := mustOpen(t, dir, Options{Quiet: now})
	l := mustLayer(t, s, d, d.source())
	mustFallIll(t, l, dir, false)
	must(t, s.Remove(l.key))
	l.disk.unwritable.Store(true)
	s.room.look(t.Context())
	if _, err := os.Stat(dataPath(dir)); !os.IsNotExist(err) || !l.disk.unwritable.Load() {
		t.Errorf("files of a layer that was removed: %v", err)
	}
	next := mustLayer(t, s, d, d.source())
	s.room.look(t.Context())
	must(t, next.Fill(t.Context()))
	mustRead(t, l, d, 0, l.Size())
	must(t, l.Close())
	must(t, next.Close())
}

// TestHealUnderReaders heals a layer again and again beside readers, Fill and eviction.
func TestHealUnderReaders(t *testing.T) {
	const size = 4000
	d := plainLayer(16, size)
	dir := t.TempDir()
	s := mustOpen(t, dir, Options{Quiet: now})
	l := mustLayer(t, s, d, d.source())
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	for from := range 3 {
		work.Go(func() {
			p := make([]byte, 2*size)
			for off := int64(from) * size; ctx.Err() == nil; off = (off + size) % (l.Size() - 2*size) {
				if err := l.ReadAt(ctx, p, off); err != nil && ctx.Err() == nil {
					t.Errorf("read: %v", err)
				} else if err == nil && !bytes.Equal(p, d.plain[off:][:len(p)]) {
					t.Error("wrong bytes")
				}
				if x, ok := l.Extent(off, size, l.Size()); ok {
					if _, err := unix.Pread(x.Fd, p[:size], x.Off); err != nil || !bytes.Equal(p[:size], d.plain[off:][:size]) {
						t.Errorf("extent: %v, or wrong bytes", err)
					}
					x.Release()
				}
			}
		})
	}
	work.Go(func() {
		for ctx.Err() == nil {
			_ = l.Fill(ctx) // ends with what cannot be written
			s.MakeRoom(ctx, 4*size)
		}
	})
	for range 50 {
		l.unsynced.syncing.Lock()
		l.disk.holes.Lock()
		l.reading.Lock()
		mustFallIll(t, l, dir, true)
		l.disk.unwritable.Store(true)
		l.reading.Unlock()
		l.disk.holes.Unlock()
		l.unsynced.syncing.Unlock()
		s.room.look(t.Context())
		if l.disk.unwritable.Load() {
			t.Error("not healed")
		}
	}
	cancel()
	work.Wait()
	must(t, l.Fill(t.Context()))
	mustRead(t, l, d, 0, l.Size())
	must(t, l.Close())
}

// TestNoDescriptors opens a layer when the process has as many files as it may: it is served from memory, and from
// disk when there are descriptors again.
func TestNoDescriptors(t *testing.T) {
	d := plainLayer(8, 10_000)
	s := mustOpen(t, t.TempDir(), Options{Quiet: now})
	l := mustLayer(t, s, d, d.source())
	must(t, l.Fill(t.Context()))
	must(t, l.Close())

	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	next, err := os.Open(os.DevNull)
	must(t, err)
	fd := next.Fd() // the lowest that is free
	must(t, next.Close())
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(fd), Max: limit.Max}))
	src := d.source()
	l, err = s.Layer("layer", d.zi, src)
	without := err == nil && l.disk.unwritable.Load() // which nothing heals under this limit
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	must(t, err)
	if !without {
		t.Error("it has its files")
	}
	mustRead(t, l, d, 0, 10)
	s.room.look(t.Context())
	mustRead(t, l, d, 0, l.Size())
	settled(t, l)
	must(t, l.Fill(t.Context()))
	mustExtent(t, l, 0, l.Size()).Release()
	if n := src.requests(); n > 1 {
		t.Errorf("%d requests for what is on disk, and one at most when it could not be opened", n)
	}
	must(t, l.Close())
}

// TestHealOtherFile has the file of data replaced while the layer is ill: what was there and
// checked is not believed to be in the new one.
func TestHealOtherFile(t *testing.T) {
	d := plainLayer(8, 10_000)
	dir := t.TempDir()
	s := mustOpen(t, dir, Options{Quiet: now})
	l := mustLayer(t, s, d, d.source())
	must(t, l.Fill(t.Context()))
	must(t, l.Close())
	l = mustLayer(t, s, d, d.source())
	defer l.Close()
	mustFallIll(t, l, dir, true)
	mustRead(t, l, d, 0, l.Size())
	must(t, os.Remove(dataPath(dir)))
	l.disk.unwritable.Store(true)
	s.room.look(t.Context())
	if l.disk.unwritable.Load() {
		t.Error("still ill")
	}
	mustRead(t, l, d, 0, l.Size())
}

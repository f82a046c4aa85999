// SPDX-License-Identifier: Apache-2.0

package span

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCrash damages the files a process left in every way a crash could, and then
// some; the next process reads the right bytes.
func TestCrash(t *testing.T) {
	const size = 64
	d := plainLayer(4, size)
	dir := t.TempDir()
	fill := func() {
		t.Helper()
		must(t, os.RemoveAll(filepath.Join(dir, "layer")))
		s, err := Open(dir, Options{})
		must(t, err)
		l := mustLayer(t, s, d, d.source())
		mustRead(t, l, d, 0, 3*size) // the last two stay absent
		must(t, s.Close())
	}
	reread := func(what string, n int) {
		t.Helper()
		s, err := Open(dir, Options{})
		must(t, err)
		l := mustLayer(t, s, d, d.source())
		p := make([]byte, len(d.plain))
		if err := l.ReadAt(t.Context(), p, 0); err != nil || string(p) != string(d.plain) {
			t.Errorf("%s at %d: wrong bytes, error %v", what, n, err)
		}
		must(t, s.Close())
	}
	fill()
	state, err := os.ReadFile(statePath(dir))
	must(t, err)
	data, err := os.ReadFile(dataPath(dir))
	must(t, err)
	restore := func(st, da []byte) {
		t.Helper()
		must(t, os.WriteFile(statePath(dir), st, 0o600))
		must(t, os.WriteFile(dataPath(dir), da, 0o600))
	}
	for i := range state {
		restore(state[:i], data)
		reread("state cut", i)
		bad := append([]byte(nil), state...)
		bad[i] ^= 0x40
		restore(bad, data)
		reread("state flipped", i)
	}
	for i := range data {
		restore(state, data[:i])
		reread("data cut", i)
		bad := append([]byte(nil), data...)
		bad[i] ^= 0x01
		restore(state, bad)
		reread("data flipped", i)
	}
	restore(append(append([]byte(nil), state...), "more"...), append(append([]byte(nil), data...), "more"...))
	reread("longer", 0)
	for _, f := range []string{"state", "data"} {
		restore(state, data)
		must(t, os.Remove(filepath.Join(dir, "layer", f)))
		reread(f+" gone", 0)
	}
}

// TestDataLost cuts the data file under an open layer: what is gone is fetched again.
func TestDataLost(t *testing.T) {
	dir := t.TempDir()
	d := plainLayer(4, 1000)
	l := mustLayer(t, mustOpen(t, dir, Options{}), d, d.source())
	mustRead(t, l, d, 0, 4500)
	settled(t, l)
	must(t, os.Truncate(dataPath(dir), 1500))
	mustRead(t, l, d, 0, 4500)
	settled(t, l)
	if n := l.Stats().SpansPresent; n != 5 {
		t.Errorf("%d spans present", n)
	}
	must(t, l.Close())
}

// brokenFile fails writes, reads, or both.
type brokenFile struct {
	file
	readErr, writeErr error
}

func (f *brokenFile) ReadAt(p []byte, off int64) (int, error) {
	if f.readErr != nil {
		return 0, f.readErr
	}
	return f.file.ReadAt(p, off)
}

func (f *brokenFile) WriteAt(p []byte, off int64) (int, error) {
	if f.writeErr != nil {
		n, _ := f.file.WriteAt(p[:len(p)/2], off)
		return n, f.writeErr
	}
	return f.file.WriteAt(p, off)
}

func TestBrokenDisk(t *testing.T) {
	for _, c := range []struct {
		name        string
		data, state brokenFile
	}{
		{"data not written", brokenFile{writeErr: unix.ENOSPC}, brokenFile{}},
		{"state not written", brokenFile{}, brokenFile{writeErr: unix.EIO}},
		{"data not read", brokenFile{readErr: unix.EIO}, brokenFile{}},
		{"nothing works", brokenFile{readErr: unix.EIO, writeErr: unix.EIO}, brokenFile{writeErr: unix.EIO}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			d := plainLayer(4, 1000)
			s := mustOpen(t, dir, Options{})
			l := mustLayer(t, s, d, d.source())
			c.data.file, c.state.file = l.disk.data, l.disk.state
			l.disk.data, l.disk.state = &c.data, &c.state
			for range 3 {
				mustRead(t, l, d, 500, 3500)
				settled(t, l)
			}
			must(t, l.Close())
			// The disk works again.
			l = mustLayer(t, s, d, d.source())
			mustRead(t, l, d, 0, 4500)
			must(t, l.Close())
		})
	}
}

// TestDiskFull fills a file system of 256 KiB.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts a small tmpfs")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("needs CAP_SYS_ADMIN: mounts a small tmpfs")
		}
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	d := plainLayer(16, 64<<10)
	s, err := Open(dir, Options{})
	must(t, err)
	l := mustLayer(t, s, d, d.source())
	for range 2 {
		mustRead(t, l, d, 0, int64(len(d.plain)))
		settled(t, l)
	}
	st := l.Stats()
	if st.WriteErrors == 0 || st.SpansPresent == 0 || st.SpansPresent == st.Spans {
		t.Errorf("%d write errors, %d of %d spans present", st.WriteErrors, st.SpansPresent, st.Spans)
	}
	must(t, s.Close())
}

// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// thinDisk mounts an ext4 of 100 MiB that has room for less than 24 MiB: it takes more, and loses it when
// that is written.
func thinDisk(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts a small file system")
	}
	dir, pool := t.TempDir(), t.TempDir()
	if err := unix.Mount("tmpfs", pool, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("needs CAP_SYS_ADMIN: mounts a small tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(pool, unix.MNT_DETACH) })
	image := filepath.Join(pool, "image")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 100<<20))
	if out, err := exec.Command("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image).CombinedOutput(); err != nil {
		t.Skipf("needs mkfs.ext4: %v: %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("needs CAP_SYS_ADMIN and a loop device: mounts a small ext4: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// TestThinDisk fills a layer on a disk that takes bytes and cannot keep them: no reader gets zeros in
// their place, and the layer is never said to be complete.
func TestThinDisk(t *testing.T) {
	const size = 1 << 20
	d := plainLayer(60, size)
	room := newTold()
	s := mustOpen(t, filepath.Join(thinDisk(t), "spans"), Options{Quiet: now, OnRoom: room.tell})
	l := mustLayer(t, s, d, d.source())
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // it would try for half a minute
	defer cancel()
	if err := l.Fill(ctx); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, errLost) {
		t.Errorf("fill: %v", err)
	}
	if l.Complete() {
		t.Error("complete, with more than the disk has room for")
	}
	_ = l.sync()
	must(t, unix.Fadvise(int(l.disk.data.(*os.File).Fd()), 0, 0, unix.FADV_DONTNEED))
	mustRead(t, l, d, 0, int64(len(d.plain)))
	if err := room.want(t, Full); !errors.Is(err, errLost) {
		t.Errorf("full because of %v", err)
	}
}

// TestLostWrites has the disk lose what it took, once or for ever.
func TestLostWrites(t *testing.T) {
	const size = 10_000
	d := plainLayer(20, size)
	open := func(t *testing.T, times int64) (*Layer, *source) {
		src := d.source()
		l := mustLayer(t, mustOpen(t, t.TempDir(), Options{Quiet: now}), d, src)
		f := l.disk.data.(*os.File)
		var n atomic.Int64
		l.disk.syncFile = func() error {
			if n.Add(1) > times {
				return nil
			}
			return errors.Join(unix.EIO, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 15*size))
		}
		return l, src
	}
	t.Run("read", func(t *testing.T) {
		l, _ := open(t, 1)
		mustRead(t, l, d, 0, 15*size)
		settled(t, l)
		l.store.room.look(t.Context()) // the keeper may have looked before
		mustRead(t, l, d, 0, int64(len(d.plain)))
		settled(t, l)
		if l.Complete() && l.unsynced.len() > 0 {
			t.Error("complete, and not on disk yet")
		}
	})
	t.Run("digest", func(t *testing.T) {
		l, _ := open(t, 1)
		sum, err := l.FillSum(t.Context())
		if err != nil || sum != sha256.Sum256(d.plain) || !l.Complete() {
			t.Errorf("digest %x, %v", sum, err)
		}
	})
	t.Run("for ever", func(t *testing.T) {
		l, src := open(t, 1<<40)
		if _, err := l.FillSum(t.Context()); !errors.Is(err, errLost) || l.Complete() {
			t.Errorf("fill of a disk that loses everything: %v", err)
		}
		if n := src.requests(); n > 4*diskTries {
			t.Errorf("%d requests", n)
		}
		p := make([]byte, len(d.plain))
		if err := l.ReadAt(t.Context(), p, 0); err != nil || !bytes.Equal(p, d.plain) {
			t.Errorf("read: %v", err)
		}
	})
	t.Run("next process", func(t *testing.T) {
		l, src := open(t, 0)
		must(t, l.Fill(t.Context()))
		n := src.requests()
		for i := range l.spans { // as if it had been opened just now
			if l.zi.Spans[i].Out.Len > 0 {
				p := make([]byte, l.zi.Spans[i].Out.Len)
				must(t, l.disk.read(p, l.zi.Spans[i].Out.Off))
				l.sums = map[int]uint32{i: castagnoli(p)}
				l.mark(i, present, absent)
				l.mark(i, absent, recorded)
				if !l.checkInto(p, i) {
					t.Fatal("not what was written")
				}
			}
		}
		l.lose()
		if l.Complete() {
			t.Error("what was checked is believed though the disk lost it")
		}
		mustRead(t, l, d, 0, int64(len(d.plain)))
		if src.requests() == n {
			t.Error("not fetched again")
		}
	})
}

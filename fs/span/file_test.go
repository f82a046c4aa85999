// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestExtent(t *testing.T) {
	d := plainLayer(4, 4096)
	l := mustLayer(t, mustOpen(t, t.TempDir(), Options{}), d, d.source())
	size := d.zi.UncompressedSize
	for _, r := range [][2]int64{{-1, 1}, {0, 0}, {0, -1}, {size, 1}, {0, size + 1}, {1 << 62, 1 << 62}, {0, 1}} {
		if _, ok := l.Extent(r[0], r[1], size); ok {
			t.Errorf("[%d,+%d) is there", r[0], r[1])
		}
	}
	mustRead(t, l, d, 4096, 8192)
	e := mustExtent(t, l, 4100, 8000)
	p := make([]byte, 8000)
	if n, err := unix.Pread(e.Fd, p, e.Off); n != len(p) || err != nil || !bytes.Equal(p, d.plain[4100:][:8000]) {
		t.Errorf("read %d bytes, %v", n, err)
	}
	for _, r := range [][2]int64{{4095, 2}, {12287, 2}, {0, size}} {
		if _, ok := l.Extent(r[0], r[1], size); ok {
			t.Errorf("[%d,+%d) is there", r[0], r[1])
		}
	}
	if n := l.Stats().BytesServed; n != 8192+8000 {
		t.Errorf("%d bytes served", n)
	}

	// The file stays open until the last extent is released.
	closed := make(chan error)
	go func() { closed <- l.Close() }()
	if n, err := unix.Pread(e.Fd, p, e.Off); n != len(p) || err != nil {
		t.Errorf("read while closing: %d bytes, %v", n, err)
	}
	select {
	case err := <-closed:
		t.Fatalf("closed with an extent in use: %v", err)
	default:
	}
	e.Release()
	must(t, <-closed)
	if _, ok := l.Extent(4096, 1, size); ok {
		t.Error("extent of a closed layer")
	}
}

// mustExtent waits until what was read has been written.
func mustExtent(t *testing.T, l *Layer, off, n int64) Extent {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.After(20 * time.Second); ; {
		if e, ok := l.Extent(off, n, l.Size()); ok {
			return e
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("[%d,+%d) never gets there", off, n)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestCutOff cuts the data file of a complete layer off and reads its end first:
// what was lost in between must not become zeros.
func TestCutOff(t *testing.T) {
	const size = 100_000
	d := plainLayer(20, size)
	dir := t.TempDir()
	l := mustLayer(t, mustOpen(t, dir, Options{Quiet: now}), d, d.source())
	must(t, l.Fill(t.Context()))
	files, err := filepath.Glob(filepath.Join(dir, "*", "data"))
	if err != nil || len(files) != 1 {
		t.Fatalf("data files %v, %v", files, err)
	}
	must(t, os.Truncate(files[0], 7*size+100))
	p := make([]byte, 10)
	must(t, l.ReadAt(t.Context(), p, l.Size()-10))
	mustSettle(t, l, len(l.spans)-1)
	all := make([]byte, l.Size())
	must(t, l.ReadAt(t.Context(), all, 0))
	if !bytes.Equal(all, d.plain) {
		t.Error("other bytes")
	}
}

// TestCutOffUnderReader cuts the data file off while somebody has seen that all is present and is about to
// read, and has another span written: what is missing is missing, not zeros.
func TestCutOffUnderReader(t *testing.T) {
	const size = 100_000
	d := plainLayer(4, size)
	l := mustLayer(t, mustOpen(t, t.TempDir(), Options{Quiet: now}), d, d.source())
	must(t, l.Fill(t.Context()))
	x := mustExtent(t, l, 2*size, size)
	f := l.disk.data.(*os.File)
	must(t, f.Truncate(size))
	written := make(chan error)
	go func() { written <- l.write(0, d.plain[:size]) }()
	p := make([]byte, size)
	for range 100_000 { // which the write has time to go wrong in
		if n, err := f.ReadAt(p, 2*size); n != 0 || err != io.EOF {
			t.Errorf("%d bytes of what was cut off, %v", n, err)
			break
		}
	}
	x.Release()
	must(t, <-written)
	mustRead(t, l, d, 0, int64(len(d.plain)))
}

// cutter is a file that is cut off before the next write.
type cutter struct {
	*os.File
	size int64
}

func (c *cutter) WriteAt(p []byte, off int64) (int, error) {
	if c.size >= 0 {
		if err := c.Truncate(c.size); err != nil {
			return 0, err
		}
		c.size = -1
	}
	return c.File.WriteAt(p, off)
}

// TestCutOffBeforeWrite cuts the data file off after mend has looked at it.
func TestCutOffBeforeWrite(t *testing.T) {
	const size = 100_000
	d := plainLayer(4, size)
	for _, i := range []int{1, 3, 4} {
		l := mustLayer(t, mustOpen(t, t.TempDir(), Options{Quiet: now}), d, d.source())
		must(t, l.Fill(t.Context()))
		l.disk.data = &cutter{l.disk.data.(*os.File), size / 2}
		out := d.zi.Spans[i].Out
		if err := l.write(i, d.plain[out.Off:out.End()]); err != errCutOff {
			t.Errorf("write of span %d: %v", i, err)
		}
		mustRead(t, l, d, 0, int64(len(d.plain)))
	}
}

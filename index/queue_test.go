// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bytes"
	"io"
	"os"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/index/indextest"
)

// TestQueueSpills holds that what does not fit into memory goes to a file without a name and comes back whole.
func TestQueueSpills(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	q := queue{limit: 5 * pageSize}
	defer q.close()
	s := new(indextest.Store)
	var want []digest.Digest
	for i, c := range []struct {
		size   int
		inFile bool
		held   int64 // pages, afterwards
	}{
		{2*pageSize + 1, false, 3}, // three pages, the last for one byte
		{1, false, 4},
		{2 * pageSize, true, 4}, // gives its one page back
		{pageSize, false, 5},
		{1, true, 5},
		{0, false, 5},
	} {
		p := make([]byte, c.size)
		for k := range p {
			p[k] = byte(i + k/1000)
		}
		r, d, err := q.hold(func(w io.Writer) error {
			_, err := io.Copy(w, iotest.HalfReader(bytes.NewReader(p))) // many writes, of odd sizes
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, inFile := r.(*os.File); inFile != c.inFile || q.held != c.held*pageSize {
			t.Errorf("content %d is in %T, %d bytes are held", i, r, q.held)
		}
		if d.Digest != digest.FromBytes(p) || d.Size != int64(len(p)) {
			t.Errorf("content %d is %v", i, d)
		}
		d.MediaType = MediaTypeZTOC
		q.add(d, r)
		q.add(d, r)
		want = append(want, d.Digest)
		if i == 0 {
			back := make([]byte, 10)
			if n, err := r.ReadAt(back, pageSize-5); n != 10 || err != nil || !bytes.Equal(back, p[pageSize-5:][:10]) {
				t.Errorf("across pages: %d, %v", n, err)
			}
			if n, err := r.ReadAt(back, int64(c.size-1)); n != 1 || err != io.EOF {
				t.Errorf("at the end: %d, %v", n, err)
			}
		}
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Errorf("left in the directory: %v, %v", list, err)
	}
	if err := q.push(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	pushed := s.Pushed()
	if len(pushed) != len(want) {
		t.Fatalf("pushed %v", pushed)
	}
	for i, d := range pushed {
		if d.Digest != want[i] {
			t.Errorf("push %d is %s, want %s", i, d.Digest, want[i])
		}
	}
	f := q.files[0]
	q.close()
	if _, err := f.Seek(0, io.SeekStart); err == nil {
		t.Error("the file is still open")
	}
}

func TestQueueNoRoom(t *testing.T) {
	t.Setenv("TMPDIR", "/nonexistent")
	var q queue
	write := func(w io.Writer) error {
		_, err := w.Write([]byte("x"))
		return err
	}
	if _, _, err := q.hold(write); err == nil {
		t.Error("no error")
	}
}

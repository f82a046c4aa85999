// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bytes"
	"io"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index/indextest"
)

// TestQueueSpills holds that what does not fit into memory goes to a file without a name and comes back whole.
func TestQueueSpills(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	q := queue{limit: 100}
	defer q.close()
	s := new(indextest.Store)
	var want []digest.Digest
	for i := range 3 {
		p := bytes.Repeat([]byte{byte(i + 1)}, 50)
		r, err := q.hold(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, inFile := r.(*os.File); inFile != (i == 2) {
			t.Errorf("content %d is in %T", i, r)
		}
		d := ocispec.Descriptor{MediaType: MediaTypeZTOC, Digest: digest.FromBytes(p), Size: int64(len(p))}
		q.add(d, r)
		q.add(d, r)
		want = append(want, d.Digest)
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
	if _, err := q.hold([]byte("x")); err == nil {
		t.Error("no error")
	}
}

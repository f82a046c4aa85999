// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/index/indextest"
)

// TestReadAll holds that content is read as far as its descriptor and the limit go, to memory of its size, which is
// kept as long as a zTOC is in use.
func TestReadAll(t *testing.T) {
	const limit = 1 << 20
	s := new(indextest.Store)
	for _, size := range []int{1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 300_000, limit} {
		want := bytes.Repeat([]byte{'x'}, size)
		d := s.Add("", want)
		p, err := index.ReadAll(t.Context(), s, d, limit)
		if err != nil || !bytes.Equal(p, want) || cap(p) > size+1 {
			t.Errorf("%d bytes: got %d in %d bytes of memory, %v", size, len(p), cap(p), err)
		}
		d.Size = 0 // unknown
		if p, err := index.ReadAll(t.Context(), s, d, limit); err != nil || !bytes.Equal(p, want) {
			t.Errorf("%d bytes, of unknown size: got %d, %v", size, len(p), err)
		}
		if _, err := index.ReadAll(t.Context(), s, d, int64(size)-1); err == nil {
			t.Errorf("%d bytes, of unknown size: read beyond the limit", size)
		}
		for _, n := range []int64{-1, 1} {
			if d.Size = int64(size) + n; d.Size > limit || d.Size == 0 {
				continue
			}
			if _, err := index.ReadAll(t.Context(), s, d, limit); !errors.Is(err, index.ErrDigest) {
				t.Errorf("%d bytes, as %d: %v", size, d.Size, err)
			}
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzSlots: a counter, whatever is in its file, gives no slot twice and none that a layer of before had.
func FuzzSlots(f *testing.F) {
	f.Add([]byte(counter(5)), uint32(3))
	f.Add([]byte(counter(4294967295)), uint32(4294967295))
	f.Add([]byte("-1"), uint32(0))
	f.Add([]byte{}, uint32(1))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, p []byte, had uint32) {
		must(t, os.WriteFile(filepath.Join(dir, "slots"), p, 0o600))
		s, err := openSlots(dir)
		must(t, err)
		s.resume()
		used := map[uint32]bool{0: true}
		if had != 0 && s.claim(had) == nil {
			used[had] = true
		}
		for range 3 {
			n, err := s.next()
			if err != nil {
				return // used up, and it says so
			}
			if used[n] {
				t.Errorf("slot %d twice", n)
			}
			used[n] = true
		}
		s, err = openSlots(dir)
		must(t, err)
		if n, err := s.next(); err == nil && used[n] {
			t.Errorf("slot %d again after a restart", n)
		}
	})
}

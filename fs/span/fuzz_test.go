// SPDX-License-Identifier: Apache-2.0

package span

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzState: of a state file, whatever is in it, only slots that were written for this layer and span count.
func FuzzState(f *testing.F) {
	const spans = 4
	var id identity
	good := id.header(spans)
	for i := range spans - 1 {
		s := id.slot(i, uint32(i)*7)
		good = append(good, s[:]...)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte{})
	path := filepath.Join(f.TempDir(), "state")
	f.Fuzz(func(t *testing.T, p []byte) {
		if err := os.WriteFile(path, p, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		sums, err := load(file, id, spans)
		if err != nil {
			t.Fatal(err)
		}
		for i, sum := range sums {
			want := id.slot(i, sum)
			at := stateHeader + i*slotSize
			if i < 0 || i >= spans || string(p[at:at+slotSize]) != string(want[:]) {
				t.Errorf("span %d is there", i)
			}
		}
	})
}

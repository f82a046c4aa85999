// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
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

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// TestRun: what was compressed comes out, through all buffers, over members of all
// sizes, and damage is found.
func TestRun(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	words := []string{"layer ", "span ", "window ", "checkpoint ", "\x00\x00\x00\x00"}
	var plain, zipped bytes.Buffer
	for _, size := range []int{0, 1, 100_000, 0, 3 << 20} {
		w := gzip.NewWriter(&zipped)
		for n := 0; n < size; {
			p := []byte(words[rnd.IntN(len(words))])
			if rnd.IntN(3) == 0 {
				p[0] = byte(rnd.Uint32())
			}
			p = p[:min(len(p), size-n)]
			plain.Write(p)
			if _, err := w.Write(p); err != nil {
				t.Fatal(err)
			}
			n += len(p)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	file := func(p []byte) string {
		name := filepath.Join(t.TempDir(), "layer.gz")
		if err := os.WriteFile(name, p, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	good, broken := file(zipped.Bytes()), bytes.Clone(zipped.Bytes())
	broken[len(broken)-5] ^= 1 // of the CRC
	for _, by := range []string{"inflate", "klauspost", "go"} {
		var out bytes.Buffer
		if err := run(&out, good, by); err != nil || !bytes.Equal(out.Bytes(), plain.Bytes()) {
			t.Errorf("%s: %d bytes, want %d; error %v", by, out.Len(), plain.Len(), err)
		}
		if err := run(&out, file(broken), by); err == nil {
			t.Errorf("%s: a wrong CRC is not found", by)
		}
		if err := run(&out, file(broken[:len(broken)/2]), by); err == nil {
			t.Errorf("%s: half a file is not found", by)
		}
	}
	if err := run(new(bytes.Buffer), good, "none"); err == nil {
		t.Error("there is no library none")
	}
	if err := run(new(bytes.Buffer), good+"x", "go"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

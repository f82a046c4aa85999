// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInspect looks at a layer from outside while it is filled, and at states that are damaged.
func TestInspect(t *testing.T) {
	dir := t.TempDir()
	see := func(want Presence) {
		t.Helper()
		if got, err := Inspect(dir, "layer"); err != nil || got != want {
			t.Errorf("seen %+v, %v, want %+v", got, err, want)
		}
	}
	see(Presence{})
	d := plainLayer(5, 4096)
	s := mustOpen(t, dir, Options{Quiet: now})
	l, err := s.Layer("layer", d.zi, d.source())
	if err != nil {
		t.Fatal(err)
	}
	see(Presence{Spans: len(d.zi.Spans)})
	if err := l.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	see(Presence{Spans: len(d.zi.Spans), Present: len(d.zi.Spans)})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "layer", "state")
	good, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[stateHeader+1]++
	if err := os.WriteFile(state, flipped, 0o600); err != nil {
		t.Fatal(err)
	}
	see(Presence{Spans: len(d.zi.Spans), Present: len(d.zi.Spans) - 1})
	if err := os.WriteFile(state, good[:len(good)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	see(Presence{Spans: len(d.zi.Spans), Present: len(d.zi.Spans) - 1})
	for _, bad := range []string{"", "SOCISPAN", string(good[:stateHeader-1]), "x" + string(good[1:]), string(good[:8]) + "\x09\x00\x00\x00" + string(good[12:]),
		string(good[:12]) + "\xff\xff\xff\xff" + string(good[16:])} {
		if err := os.WriteFile(state, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Inspect(dir, "layer"); err == nil || !strings.Contains(err.Error(), state) {
			t.Errorf("state of %d bytes: %+v, %v", len(bad), got, err)
		}
	}
	if _, err := Inspect(dir, "../layer"); err == nil {
		t.Error("outside of the store")
	}
}

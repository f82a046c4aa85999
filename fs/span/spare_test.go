// SPDX-License-Identifier: Apache-2.0

package span

import (
	"sync/atomic"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
)

// never says that work is not urgent.
func never() bool { return false }

func TestParseRunning(t *testing.T) {
	for _, c := range []struct {
		in   string
		want int
		ok   bool
	}{
		{"1.95 1.83 2.13 3/412 8946\n", 3, true},
		{"0.00 0.00 0.00 128/9000 1\n", 128, true},
		{"", 0, false},
		{"0.1 0.2 0.3 4", 4, false},
		{"0.1 0.2 0.3 x/4 5", 0, false},
	} {
		if got, ok := parseRunning([]byte(c.in)); ok != c.ok || ok && got != c.want {
			t.Errorf("%q: %d %v", c.in, got, ok)
		}
	}
}

// TestFillWantsSpareCore has a machine without one: readers do not care, Prefetch
// neither, and Fill comes to its end in spite of it.
func TestFillWantsSpareCore(t *testing.T) {
	d := gzipLayer(t, 64<<10)
	var looks atomic.Int64
	busy := func() bool {
		looks.Add(1)
		return false
	}
	l := mustLayer(t, mustOpen(t, t.TempDir(), Options{Quiet: now, Spare: busy}), d, d.source())
	p := make([]byte, 1000)
	must(t, l.ReadAt(t.Context(), p, 0))
	must(t, l.Prefetch(t.Context(), []ztoc.Range{l.zi.Spans[1].Out}))
	if n := looks.Load(); n != 0 {
		t.Errorf("looked for a core %d times before a reader was served", n)
	}
	must(t, l.Fill(t.Context()))
	if n := looks.Load(); n < maxLooks {
		t.Errorf("looked for a core %d times, want at least %d", n, maxLooks)
	}
	if !l.Complete() {
		t.Error("not complete")
	}
	looks.Store(0)
	_, err := l.Sum(t.Context())
	must(t, err)
	if n := looks.Load(); n < maxLooks {
		t.Errorf("Sum looked for a core %d times, want at least %d", n, maxLooks)
	}
}

// TestSpare gives way only as long as there is no core.
func TestSpare(t *testing.T) {
	n := 0
	spare(func() bool { n++; return n == 3 }).wait(nil, never)
	if n != 3 {
		t.Errorf("looked %d times", n)
	}
	n = 0
	spare(func() bool { n++; return false }).wait(nil, func() bool { return n == 2 })
	if n != 2 {
		t.Errorf("looked %d times until it was urgent", n)
	}
	n = 0
	spare(func() bool { n++; return false }).wait(t.Context().Done(), never)
	if n != maxLooks {
		t.Errorf("looked %d times", n)
	}
	spare(nil).wait(nil, never)
	machineSpare() // says something or other
}

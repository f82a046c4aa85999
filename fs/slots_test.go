// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/seekoci/seekoci/fs/hold"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestSlotsSum changes every bit of a counter, and cuts it off everywhere: none is believed.
func TestSlotsSum(t *testing.T) {
	good := counter(321)
	read := func(p string) *slots {
		t.Helper()
		d := t.TempDir()
		must(t, os.WriteFile(filepath.Join(d, "slots"), []byte(p), 0o600))
		s, err := openSlots(d)
		must(t, err)
		return s
	}
	for _, text := range []string{good, "321\n"} { // without a sum it is another version's
		if s := read(text); s.lost != nil || s.free != 321 {
			t.Errorf("%q: %+v", text, s)
		}
	}
	for n := range good {
		for bit := range 8 {
			p := []byte(good)
			p[n] ^= 1 << bit
			if s := read(string(p)); s.lost == nil {
				t.Errorf("%q: %+v", p, s)
			}
		}
		if s := read(good[:n]); s.lost == nil {
			t.Errorf("%q: %+v", good[:n], s)
		}
	}
}

// TestSlotsLost counts on where the counter is damaged or missing.
func TestSlotsLost(t *testing.T) {
	for _, bad := range []string{"", "0", "x", "-1", "4294967296", "12 13", "321", "missing"} {
		d := t.TempDir()
		path := filepath.Join(d, "slots")
		spoil := func() {
			t.Helper()
			must(t, os.RemoveAll(path))
			if bad != "missing" {
				must(t, os.WriteFile(path, []byte(bad), 0o600))
			}
		}
		spoil()
		s, err := openSlots(d)
		must(t, err)
		must(t, s.claim(3))
		if n, err := s.next(); err != nil || n != 4 {
			t.Errorf("%q: slot of a new mount is %d, %v", bad, n, err)
		}

		spoil()
		begin := uint32(time.Now().Unix())
		s, err = openSlots(d)
		must(t, err)
		s.resume()
		must(t, s.claim(3))
		n, err := s.next()
		if err != nil || n < begin {
			t.Errorf("%q: slot of a mount taken over is %d, %v", bad, n, err)
		}
		if s, err = openSlots(d); err != nil || s.lost != nil || s.free <= uint64(n) {
			t.Errorf("%q: counter is %+v, %v", bad, s, err)
		}
		if m, err := s.next(); err != nil || m <= n {
			t.Errorf("%q: slot %d after %d, %v", bad, m, n, err)
		}

		spoil()
		s, err = openSlots(d)
		must(t, err)
		s.resume()
		if err := s.skip(time.Unix(math.MaxUint32, 0)); err == nil {
			t.Errorf("%q: slots after the last", bad)
		}
	}
}

// TestCounterLost takes over a mount whose counter is lost: what is attached gets no slot
// that a layer had which is not there any more.
func TestCounterLost(t *testing.T) {
	h := newHome(t, mustBuild(t, []ztoctest.File{ztoctest.Big(1, "a", 100)}), mustBuild(t, []ztoctest.File{ztoctest.Big(2, "a", 100)}))
	d := h.start(t, "never", Fresh)
	must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
	was, err := os.ReadFile(filepath.Join(h.mnt(), "1", "a"))
	must(t, err)
	d.kill(t)
	must(t, os.Remove(filepath.Join(string(h), "state", "slots")))
	f, keeper, err := h.open(t.Context(), hold.Options{})
	must(t, err)
	must(t, f.Begin())
	if n, err := f.slots.next(); err != nil || n < 1<<20 {
		t.Errorf("slot %d, %v", n, err)
	}
	must(t, errors.Join(f.Close(), keeper.Close()))
	d = h.start(t, "never", Resumed)
	if now, err := os.ReadFile(filepath.Join(h.mnt(), "1", "a")); err != nil || string(now) != string(was) {
		t.Errorf("file has changed: %v", err)
	}
	d.stop(t)
}

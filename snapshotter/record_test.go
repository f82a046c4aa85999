// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/ztoc"
)

// fakeReads is a layer of which this was read.
type fakeReads struct {
	mu      sync.Mutex
	touched []ztoc.Range
	served  int64
}

func (f *fakeReads) read(r ztoc.Range) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.touched = append(f.touched, r)
	f.served += r.Len
}

func (f *fakeReads) Touched() []ztoc.Range {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.touched)
}

func (f *fakeReads) Stats() span.Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return span.Stats{BytesServed: f.served}
}

func (f *fakeReads) Size() int64 { return 1 << 50 }

// recorderFixture is a recorder whose time the test passes.
type recorderFixture struct {
	*recorder
	t     *testing.T
	clock chan time.Time
}

func newRecorder(t *testing.T) *recorderFixture {
	f := &recorderFixture{t: t, clock: make(chan time.Time)}
	f.recorder = &recorder{
		profiles: index.ProfileDir(t.TempDir()), tasks: newTasks(t.Context()), log: testLog(t), active: make(map[digest.Digest]*recording),
		tick: func() (<-chan time.Time, func()) { return f.clock, func() {} },
	}
	t.Cleanup(f.tasks.close)
	return f
}

// pass lets n ticks pass, and reports whether anything is recorded still.
func (f *recorderFixture) pass(n int) (going bool) {
	for range n {
		going = f.look(false)
	}
	return going
}

// over holds that the recording has ended.
func (f *recorderFixture) over() {
	f.t.Helper()
	f.mu.Lock()
	n := len(f.active)
	f.mu.Unlock()
	if n != 0 {
		f.t.Fatalf("%d recordings go on", n)
	}
	f.clock <- time.Time{} // somebody sees that, and ends
	f.tasks.wg.Wait()
}

func (f *recorderFixture) profile(layer, manifest digest.Digest) string {
	p, _, err := f.profiles.Load(layer, manifest)
	if err != nil {
		return "none"
	}
	return fmt.Sprint(p.Ranges)
}

// TestRecorder holds what is recorded of a start, and when the recording ends.
func TestRecorder(t *testing.T) {
	a, b, m := digest.FromString("a"), digest.FromString("b"), digest.FromString("m")
	t.Run("quiet", func(t *testing.T) {
		f, x, y := newRecorder(t), new(fakeReads), new(fakeReads)
		f.start("c", m, []recorded{{digest: a, data: x}, {digest: b, data: y}})
		if !f.pass(recordQuiet + 5) {
			t.Error("the end came before the beginning")
		}
		x.read(ztoc.Range{Off: 10, Len: 5})
		f.pass(2)
		if got := f.profile(a, m); got != "[{10 5}]" {
			t.Errorf("after a pause: %s", got)
		}
		x.read(ztoc.Range{Off: 0, Len: 5})
		if !f.pass(recordQuiet) || f.pass(1) {
			t.Error("the end came too early or too late")
		}
		f.over()
		if got := f.profile(a, m) + f.profile(b, m); got != "[{10 5} {0 5}]none" {
			t.Errorf("at the end: %s", got)
		}
		x.read(ztoc.Range{Off: 100, Len: 5})
		f.start("c", m, []recorded{{digest: a, data: x}, {digest: b, data: y}}) // another container
		y.read(ztoc.Range{Off: 7, Len: 1})
		f.pass(1 + recordQuiet)
		f.over()
		if got := f.profile(a, m) + f.profile(b, m); got != "[{10 5} {0 5} {100 5}][{7 1}]" {
			t.Errorf("after another start: %s", got)
		}
	})
	t.Run("busy", func(t *testing.T) {
		f, x := newRecorder(t), new(fakeReads)
		f.start("c", m, []recorded{{digest: a, data: x}})
		for i := range int64(recordTicks) {
			x.read(ztoc.Range{Off: 10 * i, Len: 1})
			f.pass(1)
		}
		f.over()
		if f.profile(a, m) == "none" {
			t.Error("nothing was recorded")
		}
	})
	t.Run("much", func(t *testing.T) {
		f, x := newRecorder(t), new(fakeReads)
		f.start("c", m, []recorded{{digest: a, data: x}})
		x.read(ztoc.Range{Off: 0, Len: recordBytes})
		f.pass(1)
		f.over()
		if f.profile(a, m) == "none" {
			t.Error("nothing was recorded")
		}
	})
	t.Run("never pausing", func(t *testing.T) {
		f, x := newRecorder(t), new(fakeReads)
		f.start("c", m, []recorded{{digest: a, data: x}})
		for i := range int64(recordEvery) {
			x.read(ztoc.Range{Off: 10 * i, Len: 1})
			if f.profile(a, m) != "none" {
				t.Errorf("written after %d ticks", i)
			}
			f.pass(1)
		}
		if f.profile(a, m) == "none" {
			t.Error("nothing was written")
		}
	})
	t.Run("gone", func(t *testing.T) {
		f, x := newRecorder(t), new(fakeReads)
		f.start("c", m, []recorded{{digest: a, data: x}})
		f.start("d", b, []recorded{{digest: b, data: x}})
		f.start("d", b, []recorded{{digest: b, data: x}})
		x.read(ztoc.Range{Off: 3, Len: 4})
		f.finish("other")
		if got := f.profile(a, m); got != "none" {
			t.Errorf("recorded %s", got)
		}
		f.finish("c")
		f.finish("c")
		if got := f.profile(a, m) + f.profile(b, b); got != "[{3 4}]none" {
			t.Errorf("recorded %s", got)
		}
		f.finish("d")
		if f.pass(1) {
			t.Error("a recording goes on")
		}
		f.over()
		if got := f.profile(b, b); got != "[{3 4}]" {
			t.Errorf("recorded %s", got)
		}
	})
	t.Run("another program", func(t *testing.T) {
		f := newRecorder(t)
		for _, c := range []struct {
			reads []ztoc.Range
			want  string
		}{
			{[]ztoc.Range{{Off: 0, Len: 100}}, "[{0 100}]"},
			{[]ztoc.Range{{Off: 50, Len: 10}, {Off: 200, Len: 10}}, "[{50 10} {200 10} {0 50} {60 40}]"}, // reads little: both
			{[]ztoc.Range{{Off: 300, Len: 90}}, "[{300 90}]"},                                            // reads much
			{nil, "[{300 90}]"},
		} {
			x := new(fakeReads) // the layer was opened anew
			f.start("c", m, []recorded{{digest: a, data: x}})
			for _, r := range c.reads {
				x.read(r)
			}
			f.finish("c")
			if got := f.profile(a, m); got != c.want {
				t.Errorf("recorded %s, want %s", got, c.want)
			}
		}
	})
	t.Run("closed", func(t *testing.T) {
		f, x := newRecorder(t), new(fakeReads)
		f.start("c", m, []recorded{{digest: a, data: x}})
		x.read(ztoc.Range{Off: 3, Len: 4})
		f.tasks.close()
		if got := f.profile(a, m); got != "[{3 4}]" {
			t.Errorf("recorded %s", got)
		}
	})
	t.Run("many", func(t *testing.T) {
		f := newRecorder(t)
		for i := range maxRecording + 1 {
			f.start("c", digest.FromString(fmt.Sprint(i)), []recorded{{digest: a, data: new(fakeReads)}})
		}
		f.start("c", "", []recorded{{digest: a, data: new(fakeReads)}})
		f.start("c", m, nil)
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.active) != maxRecording {
			t.Errorf("%d images are recorded", len(f.active))
		}
	})
}

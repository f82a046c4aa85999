// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/ztoc"
)

// quiet waits until the layer has no request under way.
func quiet(t testing.TB, l *Layer) {
	t.Helper()
	for t.Context().Err() == nil {
		l.mu.Lock()
		n := len(l.running) // a request that follows another is entered before that ends
		l.mu.Unlock()
		if n == 0 {
			break
		}
		runtime.Gosched()
	}
	settled(t, l)
}

// TestRoam reads where nobody has before, of sources near and far.
func TestRoam(t *testing.T) {
	const (
		size, around = 64 << 10, 1 << 20
		at, reach    = 100, around / size
	)
	d := plainLayer(200, size)
	for _, c := range []struct {
		name    string
		answer  time.Duration
		answers int
		around  int64
		n       int64
		set     func(t *testing.T, l *Layer)
		want    int // spans on either side
	}{
		{name: "far", answer: farAway, answers: answers, around: around, n: minGuess, want: reach},
		{name: "near", answer: farAway - 1, answers: answers, around: around, n: minGuess},
		{name: "not known", answer: farAway, answers: minAnswers - 1, around: around, n: minGuess},
		{name: "switched off", answer: farAway, answers: answers, around: -1, n: minGuess},
		{name: "small read", answer: farAway, answers: answers, around: around, n: minGuess - 1},
		{name: "one soon answer", answer: farAway, answers: answers, around: around, n: minGuess, set: func(_ *testing.T, l *Layer) {
			l.latency.note(0)
		}},
		{name: "soon answers long ago", answer: farAway, answers: 2 * answers, around: around, n: minGuess, want: reach},
		{name: "in a profile", answer: farAway, answers: answers, around: around, n: minGuess, set: func(_ *testing.T, l *Layer) {
			l.listed.set(at)
		}},
		{name: "in vain", answer: farAway, answers: answers, around: around, n: minGuess, set: func(_ *testing.T, l *Layer) {
			l.roamed.made.Add(roamFree + 1)
		}},
		{name: "at the beginning", answer: farAway, answers: answers, around: around, n: minGuess, set: func(t *testing.T, l *Layer) {
			must(t, l.ReadAt(t.Context(), make([]byte, minGuess), 0))
			quiet(t, l)
			for i := range reach + 1 {
				if l.spans[i].Load() != present {
					t.Errorf("span %d is not there", i)
				}
			}
			for range answers { // what the test's source has said was soon
				l.latency.note(farAway)
			}
		}, want: reach},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := mustOpen(t, t.TempDir(), Options{Around: c.around})
			l := mustLayer(t, s, d, d.source())
			defer l.Close()
			for i := range c.answers {
				if i < c.answers-answers {
					l.latency.note(0)
					continue
				}
				l.latency.note(c.answer)
			}
			if c.set != nil {
				c.set(t, l)
			}
			p := make([]byte, c.n)
			must(t, l.ReadFile(t.Context(), p, at*size, ztoc.Range{}))
			if !bytes.Equal(p, d.plain[at*size:][:c.n]) {
				t.Error("wrong bytes")
			}
			quiet(t, l)
			for i := at - 2*reach; i < at+2*reach; i++ {
				if there := l.spans[i].Load() == present; there != (i >= at-c.want && i <= at+c.want) {
					t.Errorf("span %d: there %v", i-at, there)
				}
			}
			if n := l.roaming.active; n != 0 {
				t.Errorf("%d requests are left", n)
			}
		})
	}
}

// TestRoamFails has the source fail: what lies around is not asked for again and again.
func TestRoamFails(t *testing.T) {
	d := plainLayer(100, 64<<10)
	src := d.source()
	var down atomic.Bool
	src.hook = func(context.Context, int, []byte, int64) error {
		if down.Load() {
			return errors.New("down")
		}
		return nil
	}
	s := mustOpen(t, t.TempDir(), Options{})
	l := mustLayer(t, s, d, src)
	defer l.Close()
	mustRead(t, l, d, 50*64<<10, 1) // nothing around that: too small
	for range answers {
		l.latency.note(farAway)
	}
	down.Store(true)
	before := src.requests()
	if err := l.ReadFile(t.Context(), make([]byte, minGuess), 20*64<<10, ztoc.Range{}); err == nil {
		t.Error("a failing source has been read")
	}
	quiet(t, l)
	if n := src.requests() - before; n > 1+roamRequests {
		t.Errorf("%d requests of a source that fails", n)
	}
}

// TestRoamOnce roams where nothing stays: a span that cannot be kept, or whose bytes are
// wrong, is not fetched again for nobody.
func TestRoamOnce(t *testing.T) {
	const size, at = 64 << 10, 20
	d := plainLayer(40, size)
	for name, ill := range map[string]bool{"wrong bytes": false, "nowhere to write to": true} {
		t.Run(name, func(t *testing.T) {
			src := d.source()
			src.hook = func(_ context.Context, _ int, p []byte, off int64) error {
				for i := range p {
					if !ill && off+int64(i) >= (at+2)*size {
						p[i] ^= 1
					}
				}
				return nil
			}
			s := mustOpen(t, t.TempDir(), Options{Around: 1 << 20})
			l := mustLayer(t, s, d, src)
			defer l.Close()
			if ill {
				must(t, l.disk.close())
				l.disk.data, l.disk.state = noFile{unix.EROFS}, noFile{unix.EROFS}
			}
			for range answers {
				l.latency.note(farAway)
			}
			must(t, l.ReadFile(t.Context(), make([]byte, minGuess), at*size, ztoc.Range{}))
			quiet(t, l)
			if n := src.requests(); n < 2 || n > 16 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

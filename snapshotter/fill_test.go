// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/ztoc"
)

// fakeLayer is a completer of these bytes.
type fakeLayer struct {
	fill func(ctx context.Context) error
	data string
}

func (l *fakeLayer) Fill(ctx context.Context) error { return l.fill(ctx) }

func (l *fakeLayer) Sum(context.Context) ([32]byte, error) { return sha256.Sum256([]byte(l.data)), nil }

func (l *fakeLayer) FillSum(ctx context.Context) ([32]byte, error) {
	if err := l.fill(ctx); err != nil {
		return [32]byte{}, err
	}
	return l.Sum(ctx)
}

// newFills returns fills that tell of completions on a channel and wait on another.
func newFills(t *testing.T, opts Background) (*fills, chan Completion, chan time.Time) {
	told, clock := make(chan Completion, 100), make(chan time.Time)
	s := &fills{
		opts: opts, tasks: newTasks(t.Context()), log: testLog(t),
		tell:  func(c Completion) { told <- c },
		done:  func(*fill, CompletionResult, error) error { return nil },
		after: func(time.Duration) <-chan time.Time { return clock },
	}
	t.Cleanup(s.tasks.close)
	return s, told, clock
}

// sound finds nothing wrong with a TOC.
func sound(context.Context) error { return nil }

// TestFills holds what becomes of layers of every kind.
func TestFills(t *testing.T) {
	ok := func(context.Context) error { return nil }
	for _, c := range []struct {
		name   string
		fill   fill
		result CompletionResult
	}{
		{"right", fill{diffID: digest.FromString("x")}, Verified},
		{"verified before", fill{diffID: digest.FromString("y"), verified: true}, Verified},
		{"wrong", fill{diffID: digest.FromString("y")}, Mismatch},
		{"not there once more", fill{diffID: digest.FromString("y"), mend: func(context.Context) error { return errInjected }}, Failed},
		{"disk lies", fill{diffID: digest.FromString("y"), mend: sound}, Mismatch},
		{"TOC wrong", fill{diffID: digest.FromString("x"), check: func(context.Context) error { return errTOC }}, Mismatch},
		{"TOC not there", fill{diffID: digest.FromString("x"), check: func(context.Context) error { return errInjected }}, Failed},
		{"TOC of an unknown kind", fill{diffID: digest.FromString("x"), check: func(context.Context) error { return ztoc.ErrUnsupported }}, Unverifiable},
		{"tail too long", fill{diffID: digest.FromString("y"), mend: func(context.Context) error { return span.ErrSpans }}, Unverifiable},
		{"diffID not known", fill{}, Unverifiable},
		{"diffID of another kind", fill{diffID: digest.SHA512.FromString("x")}, Unverifiable},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, told, _ := newFills(t, Background{})
			if c.fill.check == nil {
				c.fill.check = sound
			}
			if c.fill.mend == nil {
				c.fill.mend = func(context.Context) error { return errMismatch }
			}
			c.fill.layer, c.fill.data = digest.FromString(c.name), &fakeLayer{ok, "x"}
			s.add(&c.fill)
			if got := <-told; got.Result != c.result || got.Layer != c.fill.layer || errors.Is(got.Err, errMismatch) != (c.result == Mismatch) {
				t.Errorf("completion %+v, want %s", got, c.result)
			}
		})
	}
	t.Run("disabled", func(t *testing.T) {
		s, _, _ := newFills(t, Background{Disable: true})
		s.add(&fill{data: &fakeLayer{fill: func(context.Context) error { panic("fetched") }}})
		s.tasks.close()
	})
	t.Run("closed", func(t *testing.T) {
		s, told, _ := newFills(t, Background{})
		s.add(&fill{data: &fakeLayer{fill: func(context.Context) error { return fmt.Errorf("fill: %w", span.ErrClosed) }}})
		s.add(&fill{data: &fakeLayer{ok, "x"}})
		if got := <-told; got.Result != Unverifiable {
			t.Errorf("told of a layer that is gone: %+v", got)
		}
	})
}

// TestEarlyCheck holds when what was checked while a layer came is enough.
func TestEarlyCheck(t *testing.T) {
	for _, c := range []struct {
		name   string
		early  error
		data   string // what the layer is found to be
		mended bool
		check  error
		result CompletionResult
		checks int // of the complete layer
	}{
		{"right", nil, "x", false, errTOC, Verified, 0},
		{"wrong, and right in the end", errTOC, "x", false, nil, Verified, 1},
		{"wrong", errTOC, "x", false, errTOC, Mismatch, 1},
		{"too late", errInjected, "x", false, nil, Verified, 1},
		{"of bytes that were wrong", nil, "y", true, nil, Verified, 1},
		{"of bytes that are wrong", nil, "y", false, nil, Mismatch, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, told, _ := newFills(t, Background{})
			l := &fakeLayer{func(context.Context) error { return nil }, c.data}
			began, checks, ended := make(chan struct{}), 0, false
			l.fill = func(context.Context) error { <-began; return nil }
			s.add(&fill{
				diffID: digest.FromString("x"), data: l,
				early: func(ctx context.Context, filled <-chan struct{}) error {
					close(began)
					select {
					case <-filled:
					case <-ctx.Done(): // what came is wrong
					}
					ended = true
					return c.early
				},
				check: func(context.Context) error {
					if checks++; !ended {
						t.Error("two checks at once")
					}
					return c.check
				},
				mend: func(context.Context) error {
					if !c.mended {
						return errMismatch
					}
					l.data = "x"
					return nil
				},
			})
			if got := <-told; got.Result != c.result || checks != c.checks || !ended {
				t.Errorf("completion %+v after %d checks, want %s after %d", got, checks, c.result, c.checks)
			}
		})
	}
	t.Run("fetching fails", func(t *testing.T) {
		s, told, clock := newFills(t, Background{})
		tries := 0
		s.add(&fill{
			diffID: digest.FromString("x"), check: func(context.Context) error { return errTOC },
			data: &fakeLayer{func(context.Context) error {
				switch tries++; tries {
				case 1:
					return errInjected
				case 2:
					panic("injected")
				}
				return nil
			}, "x"},
			early: func(ctx context.Context, filled <-chan struct{}) error {
				select {
				case <-filled:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			},
		})
		for _, want := range []CompletionResult{Failed, Failed, Verified} {
			if got := <-told; got.Result != want {
				t.Fatalf("completion %+v, want %s", got, want)
			}
			if want == Failed {
				clock <- time.Time{}
			}
		}
	})
}

// TestFillRetry holds that an error is not the end of a layer, nor in the way of others.
func TestFillRetry(t *testing.T) {
	s, told, clock := newFills(t, Background{})
	tries := 0
	s.add(&fill{diffID: digest.FromString("x"), check: sound, data: &fakeLayer{func(context.Context) error {
		if tries++; tries < 3 {
			return errInjected
		}
		return nil
	}, "x"}})
	for _, want := range []CompletionResult{Failed, Failed, Verified} {
		got := <-told
		if got.Result != want {
			t.Fatalf("completion %+v, want %s", got, want)
		}
		if want == Failed {
			if !errors.Is(got.Err, errInjected) {
				t.Errorf("error is %v", got.Err)
			}
			clock <- time.Time{}
		}
	}
}

// TestSumRetry holds that a layer which is there and cannot be verified is not read all the time.
func TestSumRetry(t *testing.T) {
	s, told, clock := newFills(t, Background{})
	waits := make(chan time.Duration, 1)
	s.after = func(d time.Duration) <-chan time.Time { waits <- d; return clock }
	s.add(&fill{
		diffID: digest.FromString("x"), check: func(context.Context) error { return errInjected },
		data: &fakeLayer{func(context.Context) error { return nil }, "x"},
	})
	want := minSumRetry
	for range 10 {
		if got := <-waits; got != want {
			t.Fatalf("waits %s, want %s", got, want)
		}
		<-told
		want = min(2*want, maxSumRetry)
		clock <- time.Time{}
	}
	<-told
}

// TestFillQueue holds that no more than so many layers wait, and which of them is left out.
func TestFillQueue(t *testing.T) {
	for _, oldest := range []bool{false, true} {
		t.Run(fmt.Sprint("oldest ", oldest), func(t *testing.T) {
			s, told, _ := newFills(t, Background{MaxQueue: 2, DropOldest: oldest})
			goOn := make(chan struct{})
			busy := make(chan struct{})
			for range fillWorkers {
				s.add(&fill{layer: "busy", data: &fakeLayer{func(context.Context) error { busy <- struct{}{}; <-goOn; return nil }, "x"}})
				<-busy
			}
			for n := range 3 {
				s.add(&fill{layer: digest.Digest(fmt.Sprint(n)), data: &fakeLayer{func(context.Context) error { return nil }, "x"}})
			}
			want := digest.Digest("2")
			if oldest {
				want = "0"
			}
			if got := <-told; got.Result != Dropped || got.Layer != want {
				t.Errorf("%+v, want layer %s to be dropped", got, want)
			}
			close(goOn)
			for range fillWorkers + 2 {
				if got := <-told; got.Layer == want {
					t.Errorf("dropped layer: %+v", got)
				}
			}
		})
	}
}

// TestFillSilence holds that no fill begins for a while after a mount, and that the end does not wait.
func TestFillSilence(t *testing.T) {
	s, told, clock := newFills(t, Background{Silence: time.Hour})
	asked := make(chan time.Duration, 1)
	s.after = func(d time.Duration) <-chan time.Time { asked <- d; return clock }
	began := false // guarded by what the channels order
	s.add(&fill{data: &fakeLayer{func(context.Context) error { began = true; return nil }, "x"}})
	if d := <-asked; d <= 0 || d > time.Hour || began {
		t.Errorf("waits %s, began %t", d, began)
	}
	s.mu.Lock()
	s.mounted = s.mounted.Add(-time.Hour)
	s.mu.Unlock()
	clock <- time.Time{}
	<-told
	s.add(&fill{data: &fakeLayer{func(context.Context) error { t.Error("a fill began"); return nil }, "x"}})
	<-asked
	s.tasks.close()
}

// completions returns options of a snapshotter that fills, and what it tells of.
func completions() (Options, chan Completion) {
	told := make(chan Completion, 100)
	return Options{OnCompletion: func(c Completion) { told <- c }}, told
}

// TestComplete holds that lazy layers become complete and are verified, once, and that
// a restart then needs no registry.
func TestComplete(t *testing.T) {
	m := newMemory()
	opts, told := completions()
	f := newFixture(t, m, opts)
	i := newImage(t, m, "registry.test/app:1", 1, 2).build(t, -1)
	f.prepareAll(i)
	for range i.chains {
		if c := <-told; c.Result != Verified {
			t.Errorf("completion %+v", c)
		}
	}
	checkComplete := func() {
		t.Helper()
		for _, l := range f.Layers() {
			if !l.Verified || !l.Complete {
				t.Errorf("layer %+v is not complete", l)
			}
		}
	}
	checkComplete()
	f.restart(func() { m.setHook(func(context.Context, string, digest.Digest) error { return errInjected }) })
	for range i.chains {
		if c := <-told; c.Result != Verified {
			t.Errorf("completion after a restart %+v", c)
		}
	}
	checkComplete()
	f.checkServed(i)
}

// TestCondemned holds that a layer which turns out not to be what its image says is
// served no more: not to those who use it, not after a restart, not when it is pulled anew.
func TestCondemned(t *testing.T) {
	m := newMemory()
	opts, told := completions()
	f := newFixture(t, m, opts)
	i := newImage(t, m, "registry.test/app:1", 1).build(t, -1)
	i.lie(t)
	release := make(chan struct{})
	m.setHook(func(ctx context.Context, op string, d digest.Digest) error {
		if d == i.manifest.Layers[0].Digest {
			<-release
		}
		return nil
	})
	f.mustPrepare(i, 0, Lazy)
	l, _ := f.layers.get(i.key(0))
	data := l.data
	check(t, data.Retain()) // as the mount does
	close(release)
	if c := <-told; c.Result != Mismatch || !errors.Is(c.Err, errMismatch) {
		t.Fatalf("completion %+v", c)
	}
	if err := data.ReadAt(t.Context(), make([]byte, 1), 0); !errors.Is(err, errMismatch) {
		t.Errorf("read of a condemned layer: %v", err)
	}
	check(t, data.Close())
	if f.mount.names() != 0 || len(f.Layers()) != 0 || f.entries("soci", "spans") != 0 {
		t.Errorf("%d layers attached, %d served, %d have spans", f.mount.names(), len(f.Layers()), f.entries("soci", "spans"))
	}
	unavailable := func() {
		t.Helper()
		if _, err := f.Prepare(testContext(t), "container", i.top()); !errdefs.IsUnavailable(err) {
			t.Errorf("Prepare of a container: %v", err)
		}
	}
	unavailable()
	f.restart(func() {})
	unavailable()
	check(t, f.Remove(testContext(t), i.top()))
	if _, err := f.prepare(i, 0); err != nil || f.last.Kind != Fallback || f.last.Reason != ReasonUnpack {
		t.Errorf("pulled anew: %v, %+v", err, f.last)
	}
	if n := f.entries("soci", "layers"); n != 0 {
		t.Errorf("%d states are left", n)
	}
}

// TestMend holds that a layer which is wrong on disk only is mended, and not condemned.
func TestMend(t *testing.T) {
	m := newMemory()
	opts, told := completions()
	f := newFixture(t, m, opts)
	i := newImage(t, m, "registry.test/app:1", 1).build(t, -1)
	f.mustPrepare(i, 0, Lazy)
	if c := <-told; c.Result != Verified {
		t.Fatalf("completion %+v", c)
	}
	path := filepath.Join(spansDir(f.opts.Root), i.key(0), "data")
	p := must(os.ReadFile(path))(t)
	want := slices.Clone(p)
	p[len(p)/2] ^= 1
	check(t, os.WriteFile(path, p, 0o600))
	l, _ := f.layers.get(i.key(0))
	lies := &fill{layer: l.state.Layer, diffID: i.diffs[0], data: l.data, check: sound, mend: func(ctx context.Context) error {
		return f.layers.mend(ctx, l.key, l.zinfo, l.src.Load(), i.diffs[0])
	}}
	if r, err := f.layers.fills.verify(t.Context(), lies); r != Verified {
		t.Errorf("%s, %v", r, err)
	}
	if got := must(os.ReadFile(path))(t); !bytes.Equal(got, want) {
		t.Error("the layer is wrong on disk")
	}
	if err := f.layers.mend(t.Context(), l.key, l.zinfo, l.src.Load(), digest.FromString("another")); !errors.Is(err, errMismatch) {
		t.Errorf("mend of a layer that is another: %v", err)
	}
	if n := f.entries("soci", "spans"); n != 1 {
		t.Errorf("%d layers have spans", n)
	}
}

// TestLyingTOC holds that a layer whose table of contents is not its tar's is condemned, and
// served with its other zTOC if it has one.
func TestLyingTOC(t *testing.T) {
	i := compactImage(t)
	layer := i.manifest.Layers[0].Digest
	z := must(ztoc.Unmarshal(must(i.m.get(i.index.Layers[0].Digest))(t)))(t)
	n := slices.IndexFunc(z.TOC, func(e ztoc.Entry) bool { return e.Type == ztoc.TypeReg && e.Size > 0 })
	z.TOC[n].Mode |= 0o4000
	p := must(z.Marshal())(t)
	i.bindIndex(t, as(i.index.Layers[2], index.MediaTypeZTOC, layer), as(i.m.put("", p), index.MediaTypeCompact, layer)) // the formats are told by content
	opts, told := completions()
	f := newFixture(t, i.m, opts)
	f.mustPrepare(i, 0, Lazy)
	c := <-told
	if c.Result != Mismatch || !strings.Contains(fmt.Sprint(c.Err), "mode is") {
		t.Fatalf("completion %+v", c)
	}
	must(f.Prepare(testContext(t), "container", i.chains[0].String()))(t) // repairs
	if c := <-told; c.Result != Verified {
		t.Errorf("completion %+v", c)
	}
	if l := f.Layers(); len(l) != 1 || !l[0].Verified {
		t.Errorf("layers %+v", l)
	}
}

// TestKeepNewest holds that the oldest go.
func TestKeepNewest(t *testing.T) {
	dir := t.TempDir()
	for n := range 5 {
		name := filepath.Join(dir, fmt.Sprint(n))
		check(t, os.WriteFile(name, nil, 0o600))
		at := time.Unix(int64(1000-n), 0)
		check(t, os.Chtimes(name, at, at))
	}
	check(t, keepNewest(dir, 3))
	check(t, keepNewest(dir, 3))
	for n := range 5 {
		if _, err := os.Stat(filepath.Join(dir, fmt.Sprint(n))); os.IsNotExist(err) != (n > 2) {
			t.Errorf("%d: %v", n, err)
		}
	}
}

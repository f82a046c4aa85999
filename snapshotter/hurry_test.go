// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// hurryLayer is a fakeLayer that tells of its hurry.
type hurryLayer struct {
	fakeLayer
	hurries, relaxes atomic.Int64
}

func (l *hurryLayer) Hurry() { l.hurries.Add(1) }
func (l *hurryLayer) Relax() { l.relaxes.Add(1) }

// TestHasten has a reader wait for one layer of many, and for layers in every state.
func TestHasten(t *testing.T) {
	x := digest.FromString("x")
	t.Run("queued", func(t *testing.T) {
		s, told, _ := newFills(t, Background{})
		goOn, busy := make(chan struct{}), make(chan struct{})
		for n := range fillWorkers + 3 {
			s.add(&fill{key: fmt.Sprint("busy", n), layer: "busy", diffID: x, check: sound, data: &fakeLayer{func(ctx context.Context) error {
				busy <- struct{}{}
				<-goOn
				return nil
			}, "x"}})
			if n < fillWorkers {
				<-busy
			}
		}
		l := &hurryLayer{fakeLayer: fakeLayer{func(context.Context) error { return nil }, "x"}}
		s.add(&fill{key: "wanted", layer: "wanted", diffID: x, check: sound, data: l})
		for range 3 {
			s.hasten("wanted")
		}
		if c := <-told; c.Layer != "wanted" || c.Result != Verified {
			t.Errorf("first is %+v", c)
		}
		if l.hurries.Load() != 1 || l.relaxes.Load() != 1 {
			t.Errorf("%d hurries, %d ends of them", l.hurries.Load(), l.relaxes.Load())
		}
		close(goOn)
		for range fillWorkers + 3 {
			select {
			case <-told:
			case <-busy:
				<-told
			}
		}
	})
	t.Run("before it is there", func(t *testing.T) {
		s, told, clock := newFills(t, Background{Silence: time.Hour}) // which it does not wait for
		for n := range 2 * maxMissed {
			s.hasten(fmt.Sprint(n))
		}
		s.hasten("wanted")
		if n := len(s.rush.missed); n > maxMissed {
			t.Errorf("%d layers are remembered", n)
		}
		s.add(&fill{key: "wanted", diffID: x, check: sound, data: &fakeLayer{func(context.Context) error { return nil }, "x"}})
		if c := <-told; c.Result != Verified {
			t.Errorf("completion %+v", c)
		}
		close(clock)
	})
	t.Run("put off", func(t *testing.T) {
		s, told, _ := newFills(t, Background{})
		var tries atomic.Int64
		s.add(&fill{key: "wanted", diffID: x, check: sound, data: &fakeLayer{func(context.Context) error {
			if tries.Add(1) == 1 {
				return errInjected
			}
			return nil
		}, "x"}})
		for _, want := range []CompletionResult{Failed, Verified} {
			if c := <-told; c.Result != want { // nobody moves the clock
				t.Errorf("completion %+v, want %s", c, want)
			}
			s.hasten("wanted")
		}
	})
	t.Run("tried again soon", func(t *testing.T) {
		s, told, clock := newFills(t, Background{})
		waits := make(chan time.Duration, 1)
		s.after = func(d time.Duration) <-chan time.Time { waits <- d; return clock }
		s.hasten("wanted")
		s.add(&fill{key: "wanted", diffID: x, check: sound, data: &fakeLayer{func(context.Context) error { return errInjected }, "x"}})
		for range 8 {
			if got := <-waits; got > maxHurryRetry {
				t.Fatalf("waits %s for the next try", got)
			}
			<-told
			clock <- time.Time{}
		}
		<-waits
	})
	t.Run("closed", func(t *testing.T) {
		s, _, _ := newFills(t, Background{Silence: time.Hour})
		s.add(&fill{key: "wanted", data: &fakeLayer{fill: func(context.Context) error { t.Error("fetched"); return nil }}})
		s.tasks.close()
		s.hasten("wanted")
		s.hasten("another")
	})
}

// fullLayer is a layer on a full disk, for which Fill waits unless it is in a hurry.
type fullLayer struct {
	fakeLayer
	hasty chan struct{}
	room  chan struct{}
}

func (l *fullLayer) Hurry() { close(l.hasty) }
func (l *fullLayer) Relax() { l.hasty = make(chan struct{}) }

func (l *fullLayer) Fill(ctx context.Context) error {
	select {
	case <-l.room:
		return nil
	case <-l.hasty:
		return fmt.Errorf("fill: %w", span.ErrUnwritten)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *fullLayer) FillSum(ctx context.Context) ([32]byte, error) {
	return sha256.Sum256([]byte(l.data)), l.Fill(ctx)
}

// TestHastenFull holds that a layer for which there is no room on disk is verified without it, for who waits for
// that, and completed later.
func TestHastenFull(t *testing.T) {
	for _, c := range []struct {
		name    string
		through error
		first   CompletionResult
	}{
		{"right", nil, Verified}, {"wrong", fmt.Errorf("of the test: %w", errMismatch), Mismatch}, {"not to be had", errInjected, Failed},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, told, _ := newFills(t, Background{})
			verdicts := make(chan CompletionResult, 10)
			s.done = func(_ *fill, r CompletionResult, _ error) error { verdicts <- r; return nil }
			l := &fullLayer{fakeLayer: fakeLayer{data: "x"}, hasty: make(chan struct{}), room: make(chan struct{})}
			s.add(&fill{key: "wanted", diffID: digest.FromString("x"), check: sound, data: l, through: func(context.Context) error { return c.through }})
			s.hasten("wanted")
			if got := <-verdicts; got != c.first {
				t.Errorf("verdict %s, want %s", got, c.first)
			}
			if c.first == Verified {
				close(l.room)
				if got := <-verdicts; got != Verified {
					t.Errorf("when it is complete: %s", got)
				}
			}
			if got := <-told; got.Result != c.first {
				t.Errorf("completion %+v", got)
			}
		})
	}
}

// TestSetuidOnFullDisk runs what is setuid in a layer for which there is no room: an honest one is verified as it comes, and
// one that lies is not served. The background alone would not begin for an hour.
func TestSetuidOnFullDisk(t *testing.T) {
	needFUSE(t)
	const size = 300_000
	data := bytes.Repeat([]byte("#! "), size/3)
	shell := func(mode int64) []ztoctest.File {
		return append(testFiles(1), ztoctest.File{Header: tar.Header{Name: "shell", Mode: mode, ModTime: time.Unix(1, 0)}, Data: data})
	}
	for name, mode := range map[string]int64{"a lie": 0o755, "the truth": 0o4755} {
		t.Run(name, func(t *testing.T) {
			i := newImageOf(t, newMemory(), "", shell(mode)).build(t, -1)
			z := must(ztoc.Unmarshal(must(i.m.get(i.index.Layers[0].Digest))(t)))(t)
			n := slices.IndexFunc(z.TOC, func(e ztoc.Entry) bool { return e.Name == "shell" })
			z.TOC[n].Mode |= 0o4000
			i.bindIndex(t, ztocDesc(i.m.put("", must(z.Marshal())(t)), i.manifest.Layers[0].Digest))
			reg := registrytest.New(registrytest.Options{})
			defer reg.Close()
			i.push(t, reg, "library/app")
			root := t.TempDir()
			check(t, os.MkdirAll(spansDir(root), 0o700))
			check(t, unix.Mount("tmpfs", spansDir(root), "tmpfs", 0, "size=16k"))
			t.Cleanup(func() { check(t, unix.Unmount(spansDir(root), unix.MNT_DETACH)) })
			s := must(New(t.Context(), Options{
				Root: root, Log: testLog(t), Policy: Policy{GuardPrivileged: true}, Background: Background{Silence: time.Hour},
				Registry: must(registry.NewClient(registry.Options{
					Credential: func(context.Context, string) (registry.Credential, error) { return registry.Credential{}, nil },
				}))(t),
			}))(t)
			t.Cleanup(func() { s.Close() })
			pullImage(t, s, i)
			dir := run(t, s, "container", i.top())
			out, err := exec.CommandContext(t.Context(), "sha256sum", filepath.Join(dir, "shell")).CombinedOutput()
			honest := mode&0o4000 != 0
			if want := fmt.Sprintf("%x", sha256.Sum256(data)); (err == nil) != honest || honest && !strings.HasPrefix(string(out), want) {
				t.Errorf("read of a setuid file: %v, %s", err, out)
			}
			if n := s.Cache().Bytes; n > 16<<10 {
				t.Errorf("%d bytes are on a disk of 16 KiB", n)
			}
			for _, l := range s.Layers() {
				if l.Complete || l.Verified != honest {
					t.Errorf("layer %+v", l)
				}
			}
			if _, err := s.Prepare(testContext(t), "another", i.top()); (err == nil) != honest {
				t.Errorf("another container: %v", err)
			}
		})
	}
}

// TestCheckThrough holds that what is wrong with a layer is told apart from what is wrong with its registry.
func TestCheckThrough(t *testing.T) {
	i := newImage(t, newMemory(), "registry.test/app:1", 1).build(t, -1)
	f := newFixture(t, i.m, Options{})
	f.mustPrepare(i, 0, Lazy)
	l, _ := f.layers.get(i.key(0))
	data, _ := l.spans()
	check(t, f.layers.checkThrough(t.Context(), i.key(0), data, i.diffs[0]))
	if err := f.layers.checkThrough(t.Context(), i.key(0), data, digest.FromString("another")); !errors.Is(err, errMismatch) {
		t.Errorf("another diffID: %v", err)
	}
	failOn(i.m, "read", i.manifest.Layers[0].Digest)
	if err := f.layers.checkThrough(t.Context(), i.key(0), data, i.diffs[0]); !errors.Is(err, errInjected) || errors.Is(err, errMismatch) {
		t.Errorf("registry that is away: %v", err)
	}
	if n := data.Stats().SpansFetched; n != 0 {
		t.Errorf("%d spans were written to disk", n)
	}
}

// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
)

func TestCloseEndsReads(t *testing.T) {
	d := plainLayer(3, 1000)
	src := d.source()
	src.hook = func(ctx context.Context, _ int, _ []byte, _ int64) error { <-ctx.Done(); return ctx.Err() }
	s, err := Open(t.TempDir(), Options{})
	must(t, err)
	l := mustLayer(t, s, d, src)
	l2 := mustLayer(t, s, d, src)
	if l != l2 {
		t.Fatal("two layers under one key")
	}
	must(t, l.Close())
	res := make(chan error, 1)
	go func() { res <- l.ReadAt(t.Context(), make([]byte, 3000), 0) }()
	waiters(t, l, 2, 1)
	must(t, s.Close())
	if err := <-res; !errors.Is(err, ErrClosed) {
		t.Errorf("read across Close: %v", err)
	}
	if _, err := s.Layer("layer", d.zi, src); !errors.Is(err, ErrClosed) {
		t.Errorf("layer of a closed store: %v", err)
	}
	if err := l.Retain(); !errors.Is(err, ErrClosed) {
		t.Errorf("retain of a closed layer: %v", err)
	}
}

// TestCondemn condemns a layer under its readers: those that wait, and those to come.
func TestCondemn(t *testing.T) {
	d := plainLayer(3, 1000)
	src := d.source()
	s := mustOpen(t, t.TempDir(), Options{Quiet: now})
	l := mustLayer(t, s, d, src)
	mustRead(t, l, d, 0, 1000)
	settled(t, l)
	src.gate = func(ctx context.Context, _ int64) error { <-ctx.Done(); return ctx.Err() }
	res := make(chan error, 2)
	go func() { res <- l.ReadAt(t.Context(), make([]byte, 3000), 0) }()
	waiters(t, l, 2, 1)
	go func() { res <- l.Fill(t.Context()) }()
	wrong := errors.New("wrong")
	l.Condemn(wrong)
	l.Condemn(errors.New("again"))
	for range 2 {
		if err := <-res; !errors.Is(err, wrong) {
			t.Errorf("under way: %v", err)
		}
	}
	for _, off := range []int64{0, 2000} {
		if err := l.ReadAt(t.Context(), make([]byte, 1), off); !errors.Is(err, wrong) {
			t.Errorf("read at %d: %v", off, err)
		}
	}
	if err := l.Fill(t.Context()); !errors.Is(err, wrong) {
		t.Errorf("fill: %v", err)
	}
	must(t, l.Close())
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, Options{})
	d := plainLayer(3, 1000)
	old := mustLayer(t, s, d, d.source())
	mustRead(t, old, d, 0, 1000)
	must(t, s.Remove("layer"))
	mustRead(t, old, d, 0, 3000) // still served
	if keys, err := s.Keys(); err != nil || len(keys) != 0 {
		t.Errorf("keys %v, %v", keys, err)
	}
	src := d.source()
	l := mustLayer(t, s, d, src)
	if l == old {
		t.Error("the removed layer came back")
	}
	mustRead(t, l, d, 0, 1000)
	if src.requests() != 1 {
		t.Error("a removed layer had spans")
	}
	must(t, old.Close())
	if keys, err := s.Keys(); err != nil || !slices.Equal(keys, []string{"layer"}) {
		t.Errorf("keys %v, %v", keys, err)
	}
	must(t, l.Close())
	must(t, s.Remove("layer"))
	must(t, s.Remove("layer"))
	// What a crash left of a Remove goes at the next Open.
	must(t, os.MkdirAll(dir+"/"+trashPrefix+"7/x", 0o700))
	mustOpen(t, dir, Options{})
	if ents, err := os.ReadDir(dir); err != nil || len(ents) != 0 {
		t.Errorf("left behind: %v, %v", ents, err)
	}
}

func TestLayerRefuses(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{})
	d := plainLayer(3, 1000)
	for _, key := range []string{"", ".", "..", ".x", "a/b", "a\x00", strings.Repeat("x", 256)} {
		if _, err := s.Layer(key, d.zi, d.source()); err == nil {
			t.Errorf("key %q accepted", key)
		}
		if err := s.Remove(key); err == nil {
			t.Errorf("key %q accepted by Remove", key)
		}
	}
	for name, change := range map[string]func(*ztoc.ZInfo){
		"size":           func(z *ztoc.ZInfo) { z.CompressedSize++ },
		"negative size":  func(z *ztoc.ZInfo) { z.UncompressedSize = -1 },
		"no spans":       func(z *ztoc.ZInfo) { z.Spans = nil },
		"gap":            func(z *ztoc.ZInfo) { z.Spans[1].Out.Off++ },
		"overlap":        func(z *ztoc.ZInfo) { z.Spans[1].Out.Off-- },
		"short":          func(z *ztoc.ZInfo) { z.UncompressedSize++ },
		"negative":       func(z *ztoc.ZInfo) { z.Spans[3].Out.Len = -1 },
		"huge":           func(z *ztoc.ZInfo) { z.Spans[3].Out.Len = maxSpan + 1 },
		"overflow":       func(z *ztoc.ZInfo) { z.Spans[3].Out.Len = 1<<63 - 1 },
		"in negative":    func(z *ztoc.ZInfo) { z.Spans[1].In.Off = -1 },
		"in past end":    func(z *ztoc.ZInfo) { z.Spans[3].In.Len++ },
		"in overflow":    func(z *ztoc.ZInfo) { z.Spans[3].In.Off = 1<<63 - 1 },
		"in no length":   func(z *ztoc.ZInfo) { z.Spans[3].In.Len = -5 },
		"in huge length": func(z *ztoc.ZInfo) { z.Spans[3].In.Len = 1<<63 - 1 },
	} {
		d := plainLayer(3, 1000)
		change(d.zi)
		if _, err := s.Layer("x", d.zi, d.source()); !errors.Is(err, ErrSpans) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if keys, err := s.Keys(); err != nil || len(keys) != 0 {
		t.Errorf("refused layers left %v, %v", keys, err)
	}
	l := mustLayer(t, s, d, d.source())
	if _, err := s.Layer("layer", plainLayer(3, 500).zi, plainLayer(3, 500).source()); !errors.Is(err, ErrConflict) {
		t.Errorf("other zInfo under an open key: %v", err)
	}
	must(t, l.Close())
}

// TestOtherZInfo opens a layer again under a zInfo that differs in its windows
// alone: none of the bytes on disk are believed.
func TestOtherZInfo(t *testing.T) {
	dir := t.TempDir()
	d := plainLayer(3, 1000)
	l := mustLayer(t, mustOpen(t, dir, Options{}), d, d.source())
	mustRead(t, l, d, 0, 3500)
	must(t, l.Close())
	other := plainLayer(3, 1000)
	other.zi.Spans[1].Window = bytes.Repeat([]byte{1}, 32<<10)
	src := other.source()
	l = mustLayer(t, mustOpen(t, dir, Options{}), other, src)
	if n := l.Stats().SpansPresent; n != 0 {
		t.Errorf("%d spans of another zInfo present", n)
	}
	mustRead(t, l, other, 0, 3500)
	if src.requests() == 0 {
		t.Error("bytes of another zInfo served")
	}
	must(t, l.Close())
}

// TestOtherZInfoWhileClosing opens a layer under another zInfo while the one before
// it still writes: none of its bytes get into the new one.
func TestOtherZInfoWhileClosing(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, Options{})
	d := plainLayer(1, 1000)
	l := mustLayer(t, s, d, d.source())
	w := &slowFile{file: l.disk.data, open: make(chan struct{})}
	l.disk.data = w
	mustRead(t, l, d, 0, 10)
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	for free := false; !free; runtime.Gosched() { // a handle would make ours the last Close
		s.mu.Lock()
		free = s.layers[l.key] == nil
		s.mu.Unlock()
	}

	other := plainLayer(2, 700)
	l2 := mustLayer(t, s, other, other.source())
	mustRead(t, l2, other, 0, 1700)
	for i := range other.zi.Spans {
		mustSettle(t, l2, i)
	}
	close(w.open)
	must(t, <-closed)
	mustRead(t, l2, other, 0, 1700)
	must(t, l2.Close())
}

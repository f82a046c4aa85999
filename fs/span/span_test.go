// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
)

func TestReadAt(t *testing.T) {
	layers := map[string]*layerData{
		"gzip":       gzipLayer(t, 32<<10),
		"gzip1":      gzipLayer(t, 64<<20),
		"everyblock": gzipLayer(t, ztoc.EveryBlock),
		"plain":      plainLayer(20, 10_000),
	}
	for name, d := range layers {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := mustOpen(t, dir, Options{MaxFetch: 100 << 10})
			src := d.source()
			l := mustLayer(t, s, d, src)
			r := rand.New(rand.NewPCG(2, 2))
			size := int64(len(d.plain))
			for range 200 {
				off := r.Int64N(size)
				mustRead(t, l, d, off, r.Int64N(min(size-off, 200_000)+1))
			}
			mustRead(t, l, d, 0, size)
			settled(t, l)
			st := l.Stats()
			want := 0 // a span may be empty, or lie in the padding behind the archive
			for _, sp := range d.zi.Spans {
				if sp.Out.Len > 0 && sp.Out.Off < size {
					want++
				}
			}
			if st.SpansPresent != st.Spans || st.SpansFetched != int64(want) {
				t.Errorf("%d of %d spans present, %d fetched", st.SpansPresent, want, st.SpansFetched)
			}
			if st.Requests != int64(src.requests()) {
				t.Errorf("counted %d requests of %d", st.Requests, src.requests())
			}
			must(t, l.Close())

			// The next process asks for nothing.
			src = d.source()
			l = mustLayer(t, mustOpen(t, dir, Options{}), d, src)
			mustRead(t, l, d, 0, size)
			if n := src.requests(); n != 0 {
				t.Errorf("%d requests after reopening", n)
			}
			must(t, l.Close())
		})
	}
}

func TestReadAtOutside(t *testing.T) {
	d := plainLayer(2, 100)
	l := mustLayer(t, mustOpen(t, t.TempDir(), Options{}), d, d.source())
	for _, c := range []struct{ off, n int64 }{{-1, 1}, {250, 1}, {0, 251}, {249, 2}, {1 << 62, 1}, {-1 << 63, 0}} {
		if err := l.ReadAt(t.Context(), make([]byte, c.n), c.off); !errors.Is(err, ErrRange) {
			t.Errorf("[%d,+%d): %v", c.off, c.n, err)
		}
	}
	mustRead(t, l, d, 250, 0)
	must(t, l.Close())
	if err := l.ReadAt(t.Context(), make([]byte, 1), 0); !errors.Is(err, ErrClosed) {
		t.Errorf("read of a closed layer: %v", err)
	}
	if err := l.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("second close: %v", err)
	}
}

// TestRequests draws the cache: what is there is "#", what one read asks for is
// given in spans, and the requests that come of it are listed.
func TestRequests(t *testing.T) {
	for _, c := range []struct {
		have     string // spans 0 to 9
		from, to int    // spans read, half-open
		maxFetch int64  // in spans
		want     string // requests, as half-open span ranges
	}{
		{"..........", 0, 1, 16, "0-1"},
		{"..........", 0, 10, 16, "0-10"},
		{"..........", 2, 5, 16, "2-5"},
		{"..........", 0, 10, 4, "0-4 4-8 8-10"},
		{"..........", 0, 3, 1, "0-1 1-2 2-3"},
		{"...#......", 0, 6, 16, "0-6"},
		{".#.#.#.#.#", 0, 10, 16, "0-9"},
		{".#.#.#.#.#", 0, 10, 4, "0-3 4-7 8-9"},
		{"##########", 0, 10, 16, ""},
		{"####....##", 3, 9, 16, "4-8"},
		{"..........", 4, 5, 0, "4-5"},
	} {
		t.Run(fmt.Sprintf("%s/%d-%d/%d", c.have, c.from, c.to, c.maxFetch), func(t *testing.T) {
			const size = 1000
			d := plainLayer(10, size)
			src := d.source()
			l := mustLayer(t, mustOpen(t, t.TempDir(), Options{MaxFetch: c.maxFetch * size}), d, src)
			for i := range c.have {
				if c.have[i] == '#' {
					mustRead(t, l, d, int64(i)*size, 1)
				}
			}
			settled(t, l)
			src.reqs = nil
			mustRead(t, l, d, int64(c.from)*size+5, int64(c.to-c.from)*size-10)
			var got []string
			for _, r := range src.reqs {
				got = append(got, fmt.Sprintf("%d-%d", r.Off/size, r.End()/size))
			}
			slices.Sort(got)
			if g := strings.Join(got, " "); g != c.want {
				t.Errorf("requests %s, want %s", g, c.want)
			}
		})
	}
}

func TestSingleFlight(t *testing.T) {
	d := plainLayer(3, 1000)
	src := d.source()
	const readers = 50
	release := make(chan struct{})
	src.hook = func(context.Context, int, []byte, int64) error { <-release; return nil }
	l := mustLayer(t, mustOpen(t, t.TempDir(), Options{}), d, src)
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() { mustRead(t, l, d, int64(i), 500) })
	}
	waiters(t, l, 0, readers)
	close(release)
	wg.Wait()
	if n := src.requests(); n != 1 {
		t.Errorf("%d requests for %d readers of one span", n, readers)
	}
	must(t, l.Close())
}

// waiters waits until n reads wait for span i.
func waiters(t *testing.T, l *Layer, i, n int) {
	t.Helper()
	for t.Context().Err() == nil {
		l.mu.Lock()
		f := l.flights[i]
		ok := f != nil && len(f.waits) == n || f == nil && n == 0
		l.mu.Unlock()
		if ok {
			return
		}
	}
	t.Fatal("gave up")
}

func TestFaultySource(t *testing.T) {
	boom := errors.New("boom")
	lie := func(p []byte) { p[len(p)/2] ^= 1 }
	for _, c := range []struct {
		name     string
		retries  int
		hook     func(ctx context.Context, n int, p []byte, off int64) error
		want     error // of the first read; nil means the right bytes
		requests int   // until the first read ended
	}{
		{"fails", 0, func(_ context.Context, n int, _ []byte, _ int64) error { return pick(n == 0, boom) }, boom, 1},
		{"lies", 0, func(_ context.Context, n int, p []byte, _ int64) error { iff(n == 0, lie, p); return nil }, ztoc.ErrDigest, 1},
		{"lies once, asked again", 1, func(_ context.Context, n int, p []byte, _ int64) error { iff(n == 0, lie, p); return nil }, nil, 2},
		{"lies, asked twice", 2, func(_ context.Context, n int, p []byte, _ int64) error { iff(n < 3, lie, p); return nil }, ztoc.ErrDigest, 3},
		{"lies, then fails", 5, func(_ context.Context, n int, p []byte, _ int64) error {
			iff(n == 0, lie, p)
			return pick(n == 1, boom)
		}, boom, 2},
		{"panics", 0, func(_ context.Context, n int, _ []byte, _ int64) error {
			if n == 0 {
				panic("oops")
			}
			return nil
		}, errPanic, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := plainLayer(3, 1000)
			src := d.source()
			src.hook = c.hook
			l := mustLayer(t, mustOpen(t, t.TempDir(), Options{Retries: c.retries}), d, src)
			p := make([]byte, 100)
			err := l.ReadAt(t.Context(), p, 1100)
			if !errors.Is(err, c.want) {
				t.Errorf("first read: %v, want %v", err, c.want)
			}
			if se := (*Error)(nil); c.want != nil && (!errors.As(err, &se) || se.Span != 1 || se.Layer != "layer") {
				t.Errorf("error does not name the span: %v", err)
			}
			if n := src.requests(); n != c.requests {
				t.Errorf("%d requests, want %d", n, c.requests)
			}
			mustRead(t, l, d, 1100, 100) // no failure is remembered
			must(t, l.Close())
		})
	}
}

func pick(is bool, err error) error {
	if is {
		return err
	}
	return nil
}

func iff(is bool, f func([]byte), p []byte) {
	if is {
		f(p)
	}
}

// TestOneBadSpan reads three spans with one request, of which the last one lies:
// the others are kept.
func TestOneBadSpan(t *testing.T) {
	d := plainLayer(3, 1000)
	src := d.source()
	src.hook = func(_ context.Context, n int, p []byte, off int64) error { p[2500-off] ^= 1; return nil }
	l := mustLayer(t, mustOpen(t, t.TempDir(), Options{}), d, src)
	if err := l.ReadAt(t.Context(), make([]byte, 3000), 0); !errors.Is(err, ztoc.ErrDigest) {
		t.Fatal(err)
	}
	settled(t, l)
	src.hook = func(context.Context, int, []byte, int64) error { return errors.New("not to be asked") }
	mustRead(t, l, d, 0, 2000)
	must(t, l.Close())
}

func TestCancel(t *testing.T) {
	d := plainLayer(3, 1000)
	src := d.source()
	asked, gone := make(chan struct{}, 2), make(chan struct{}, 1)
	release := make(chan struct{})
	src.hook = func(ctx context.Context, _ int, _ []byte, _ int64) error {
		asked <- struct{}{}
		select {
		case <-ctx.Done():
			gone <- struct{}{}
			return ctx.Err()
		case <-release:
			return nil
		}
	}
	l := mustLayer(t, mustOpen(t, t.TempDir(), Options{}), d, src)
	read := func() (cancel func(), res chan error) {
		ctx, cancel := context.WithCancel(t.Context())
		res = make(chan error, 1)
		go func() { res <- l.ReadAt(ctx, make([]byte, 1500), 200) }()
		return cancel, res
	}
	canceled := func(res chan error) {
		t.Helper()
		if err := <-res; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled read: %v", err)
		}
	}

	cancelA, a := read()
	cancelB, b := read()
	waiters(t, l, 0, 2)
	waiters(t, l, 1, 2)
	<-asked // a request that is cancelled before it is made is never made
	cancelA()
	canceled(a)
	waiters(t, l, 0, 1)
	select {
	case <-gone:
		t.Fatal("request cancelled under a reader who still waits")
	default:
	}
	cancelB()
	canceled(b)
	<-gone

	// A reader who comes now does not inherit the cancelled request.
	cancelC, c := read()
	defer cancelC()
	waiters(t, l, 0, 1)
	close(release)
	must(t, <-c)
	if n := src.requests(); n != 2 {
		t.Errorf("%d requests", n)
	}
	if e := l.Stats().FetchErrors; e != 0 {
		t.Errorf("%d errors counted for a cancelled request", e)
	}
	must(t, l.Close())

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l = mustLayer(t, mustOpen(t, t.TempDir(), Options{}), d, src)
	if err := l.ReadAt(ctx, make([]byte, 1), 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	must(t, l.Close())
}

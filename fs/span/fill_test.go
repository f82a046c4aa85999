// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// now lets Fill go on as soon as no reader waits.
const now = -1

func TestFill(t *testing.T) {
	for name, d := range map[string]*layerData{
		"gzip":       gzipLayer(t, 32<<10),
		"gzip1":      gzipLayer(t, 64<<20),
		"everyblock": gzipLayer(t, ztoc.EveryBlock),
		"plain":      plainLayer(20, 10_000),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := mustOpen(t, dir, Options{Quiet: now, MaxFetch: 100 << 10})
			src := d.source()
			l := mustLayer(t, s, d, src)
			if _, err := l.Sum(t.Context()); l.Complete() || !errors.Is(err, ErrIncomplete) {
				t.Errorf("an empty layer is complete, or has the sum %v", err)
			}
			mustRead(t, l, d, 0, 1)
			must(t, l.Fill(t.Context()))
			if !l.Complete() {
				t.Fatal("not complete")
			}
			n := src.requests()
			mustRead(t, l, d, 0, int64(len(d.plain)))
			must(t, l.Fill(t.Context()))
			if src.requests() != n {
				t.Error("requests for a layer that is complete")
			}
			must(t, l.Close())

			// The next process asks for nothing, and believes only what it has read.
			s2 := mustOpen(t, dir, Options{Quiet: now})
			src = d.source()
			l = mustLayer(t, s2, d, src)
			if l.Complete() {
				t.Error("complete, unchecked")
			}
			must(t, l.Fill(t.Context()))
			if !l.Complete() || src.requests() != 0 {
				t.Errorf("complete: %t, after %d requests", l.Complete(), src.requests())
			}
			must(t, l.Close())
			must(t, os.Truncate(dataPath(dir), int64(len(d.plain)/2)))
			l = mustLayer(t, s2, d, src)
			must(t, l.Fill(t.Context()))
			mustRead(t, l, d, 0, int64(len(d.plain)))
			must(t, l.Close())
		})
	}
}

// TestSum compares the sum to the digest of all that was compressed, whatever
// follows the tar.
func TestSum(t *testing.T) {
	for _, padding := range []int{0, 3000, 300_000} {
		tar, err := ztoctest.Tar(ztoctest.Files(1, 20), ztoctest.TarOptions{Padding: padding})
		must(t, err)
		blob, err := ztoctest.Members(tar, 100_000, ztoctest.Member{Level: 6})
		must(t, err)
		for _, size := range []int64{ztoc.EveryBlock, 16 << 10, 1 << 20} {
			t.Run(fmt.Sprintf("%d/%d", padding, size), func(t *testing.T) {
				z, err := ztoc.Build(t.Context(), bytes.NewReader(blob), ztoc.BuildOptions{SpanSize: size})
				must(t, err)
				d := &layerData{z.ZInfo, blob, tar[:z.ZInfo.UncompressedSize]}
				src := d.source()
				l := mustLayer(t, mustOpen(t, t.TempDir(), Options{Quiet: now}), d, src)
				sum, err := l.FillSum(t.Context())
				if err != nil || sum != sha256.Sum256(tar) || !l.Complete() {
					t.Errorf("sum %x while it is filled, %v", sum, err)
				}
				sum, err = l.Sum(t.Context())
				if err != nil || sum != sha256.Sum256(tar) {
					t.Errorf("sum %x, %v", sum, err)
				}
				lie := func(_ context.Context, _ int, p []byte, _ int64) error { p[len(p)-1] ^= 1; return nil }
				src.hook = lie
				if _, err := l.Sum(t.Context()); !errors.Is(err, ztoc.ErrDigest) {
					t.Errorf("sum of a tail that is wrong: %v", err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if _, err := l.Sum(ctx); !errors.Is(err, context.Canceled) {
					t.Errorf("cancelled: %v", err)
				}
			})
		}
	}
}

// TestReadArriving reads a layer while it comes, and one that does not.
func TestReadArriving(t *testing.T) {
	d := gzipLayer(t, 32<<10)
	l := mustLayer(t, mustOpen(t, t.TempDir(), Options{Quiet: now}), d, d.source())
	filled := make(chan struct{})
	read := make(chan error, 1)
	got := make([]byte, len(d.plain))
	go func() {
		read <- func() error {
			for off := 0; off < len(got); off += 10_000 {
				if err := l.ReadArriving(t.Context(), got[off:min(off+10_000, len(got))], int64(off), filled); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	must(t, l.Fill(t.Context()))
	close(filled)
	if err := <-read; err != nil || !bytes.Equal(got, d.plain) {
		t.Errorf("read while it came: %v, the same bytes: %t", err, bytes.Equal(got, d.plain))
	}
	must(t, l.Close())

	l = mustLayer(t, mustOpen(t, t.TempDir(), Options{Quiet: now}), d, d.source())
	p := make([]byte, 10)
	if err := l.ReadArriving(t.Context(), p, 0, filled); !errors.Is(err, ErrIncomplete) {
		t.Errorf("it does not come any more: %v", err)
	}
	if err := l.ReadArriving(t.Context(), p, l.Size(), nil); !errors.Is(err, ErrRange) {
		t.Errorf("behind its end: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.ReadArriving(ctx, p, 0, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	go func() { read <- l.ReadArriving(t.Context(), p, 0, nil) }()
	must(t, l.Close())
	if err := <-read; !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// TestFillSumFails has spans that are wrong, and nobody who waits any more.
func TestFillSumFails(t *testing.T) {
	d := gzipLayer(t, 16<<10)
	src := d.source()
	src.hook = func(_ context.Context, _ int, p []byte, _ int64) error {
		p[len(p)/2] ^= 1
		return nil
	}
	l := mustLayer(t, mustOpen(t, t.TempDir(), Options{Quiet: now}), d, src)
	if _, err := l.FillSum(t.Context()); !errors.Is(err, ztoc.ErrDigest) {
		t.Errorf("wrong spans: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.FillSum(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestFillRequests draws the cache, as TestRequests does, and lists what Fill and
// Prefetch ask for, in order.
func TestFillRequests(t *testing.T) {
	const size = 200 << 10 // bridge is a little more
	for _, c := range []struct {
		have     string
		prefetch []int // spans; nil means Fill
		maxFetch int64 // in spans
		want     string
	}{
		{"..........", nil, 20, "0-10"},
		{"..........", nil, 4, "0-4 4-8 8-10"},
		{"##...#..##", nil, 20, "2-8"},
		{"##...##.##", nil, 20, "2-5 7-8"},
		{"##########", nil, 20, ""},
		{"..........", []int{5}, 20, "5-6"},
		{"..........", []int{5, 6, 4}, 20, "4-7"},
		{"..........", []int{9, 8, 0, 1}, 20, "8-10 0-2"},
		{"..........", []int{7, 0, 1, 5}, 20, "5-8 0-2"},
		{"..........", []int{0, 3, 6, 9}, 20, "0-1 3-4 6-7 9-10"},
		{".......#.#", []int{9, 8, 7, 6}, 20, "6-9"},
		{"..........", []int{3, 4, 5, 6, 7, 2}, 4, "3-7 7-8 2-3"},
		{"##########", []int{3, 4}, 4, ""},
	} {
		t.Run(fmt.Sprintf("%s/%v/%d", c.have, c.prefetch, c.maxFetch), func(t *testing.T) {
			d := plainLayer(10, size)
			d = &layerData{d.zi, d.blob[:10*size], d.plain[:10*size]}
			d.zi.Spans, d.zi.CompressedSize, d.zi.UncompressedSize = d.zi.Spans[:10], 10*size, 10*size
			src := d.source()
			l := mustLayer(t, mustOpen(t, t.TempDir(), Options{MaxFetch: c.maxFetch * size, Requests: 2, Quiet: now}), d, src)
			for i := range c.have {
				if c.have[i] == '#' {
					mustRead(t, l, d, int64(i)*size, 1)
				}
			}
			settled(t, l)
			src.reqs = nil
			if c.prefetch == nil {
				must(t, l.Fill(t.Context()))
			} else {
				var rs []ztoc.Range
				for _, i := range c.prefetch {
					rs = append(rs, ztoc.Range{Off: int64(i)*size + 7, Len: 9})
				}
				must(t, l.Prefetch(t.Context(), rs))
			}
			var got []string
			for _, r := range src.reqs {
				got = append(got, fmt.Sprintf("%d-%d", r.Off/size, r.End()/size))
			}
			if g := strings.Join(got, " "); g != c.want {
				t.Errorf("requests %s, want %s", g, c.want)
			}
			for _, i := range c.prefetch {
				if l.spans[i].Load() != present {
					t.Errorf("span %d was not prefetched", i)
				}
			}
		})
	}
}

func TestPrefetchRefuses(t *testing.T) {
	d := plainLayer(2, 100)
	l := mustLayer(t, mustOpen(t, t.TempDir(), Options{}), d, d.source())
	for _, r := range []ztoc.Range{{Off: -1, Len: 1}, {Off: 0, Len: -1}, {Off: 250, Len: 1}, {Off: 1 << 62, Len: 1 << 62}} {
		if err := l.Prefetch(t.Context(), []ztoc.Range{r}); !errors.Is(err, ErrRange) {
			t.Errorf("%v: %v", r, err)
		}
	}
	must(t, l.Prefetch(t.Context(), []ztoc.Range{{Off: 250}}))
}

func TestTouched(t *testing.T) {
	const size = 1000
	d := plainLayer(10, size)
	l := mustLayer(t, mustOpen(t, t.TempDir(), Options{Quiet: now}), d, d.source())
	span := func(first, n int64) ztoc.Range { return ztoc.Range{Off: first * size, Len: n * size} }
	must(t, l.Prefetch(t.Context(), []ztoc.Range{span(5, 1)}))
	if r := l.Touched(); len(r) != 0 {
		t.Errorf("touched by nobody: %v", r)
	}
	mustRead(t, l, d, 7*size, 10)
	mustRead(t, l, d, 3*size, size+1)
	mustRead(t, l, d, 5*size, 1)
	must(t, l.Fill(t.Context()))
	mustRead(t, l, d, 7*size+500, 1000)
	mustRead(t, l, d, 3*size, 1)
	if got, want := l.Touched(), []ztoc.Range{span(7, 1), span(3, 3), span(8, 1)}; !slices.Equal(got, want) {
		t.Errorf("touched %v, want %v", got, want)
	}
}

// TestFillEnds has Fill end with its context, with the layer, and with a source or
// disk that fails; a span that is wrong keeps it from nothing else.
func TestFillEnds(t *testing.T) {
	const size = 100 << 10
	d := plainLayer(10, size)
	boom := errors.New("boom")
	t.Run("source", func(t *testing.T) {
		src := d.source()
		src.hook = func(context.Context, int, []byte, int64) error { return boom }
		l := mustLayer(t, mustOpen(t, t.TempDir(), Options{MaxFetch: size, Quiet: now}), d, src)
		if err := l.Fill(t.Context()); !errors.Is(err, boom) || !strings.Contains(err.Error(), "layer") {
			t.Error(err)
		}
		if n := src.requests(); n > 3 {
			t.Errorf("%d requests to a source that is down", n)
		}
	})
	t.Run("span", func(t *testing.T) {
		src := d.source()
		src.hook = func(_ context.Context, _ int, p []byte, off int64) error {
			if i := 3*size - off; i >= 0 && i < int64(len(p)) {
				p[i] ^= 1
			}
			return nil
		}
		l := mustLayer(t, mustOpen(t, t.TempDir(), Options{MaxFetch: 4 * size, Retries: 1, Quiet: now}), d, src)
		if err := l.Fill(t.Context()); !errors.Is(err, ztoc.ErrDigest) {
			t.Error(err)
		}
		if st := l.Stats(); st.SpansPresent != st.Spans-1 || l.Complete() {
			t.Errorf("%d of %d spans present", st.SpansPresent, st.Spans)
		}
		src.hook = nil
		must(t, l.Fill(t.Context()))
	})
	t.Run("disk", func(t *testing.T) {
		l := mustLayer(t, mustOpen(t, t.TempDir(), Options{MaxFetch: size, Quiet: now}), d, d.source())
		l.disk.data = &brokenFile{file: l.disk.data, writeErr: unix.EIO}
		if err := l.Fill(t.Context()); !errors.Is(err, unix.EIO) {
			t.Error(err)
		}
	})
	for _, how := range []string{"context", "close"} {
		t.Run(how, func(t *testing.T) {
			src := d.source()
			asked := make(chan struct{}, 20)
			src.gate = func(ctx context.Context, end int64) error {
				asked <- struct{}{}
				<-ctx.Done()
				return ctx.Err()
			}
			l := mustLayer(t, mustOpen(t, t.TempDir(), Options{Quiet: now}), d, src)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			res := make(chan error, 2)
			go func() { res <- l.Fill(ctx) }()
			<-asked
			want := ErrClosed
			if how == "context" {
				cancel()
				want = context.Canceled
			} else {
				must(t, l.Close())
			}
			if err := <-res; !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
			if how == "close" {
				if err := l.Fill(t.Context()); !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
			}
		})
	}
}

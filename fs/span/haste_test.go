// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/ztoc"
)

// TestHurry has somebody wait for a whole layer beside a reader, for whom Fill makes way.
func TestHurry(t *testing.T) {
	d := plainLayer(8, 10_000)
	l := mustLayer(t, mustOpen(t, t.TempDir(), Options{Quiet: now}), d, d.source())
	l.store.calm.enter()
	defer l.store.calm.leave()
	res := make(chan error, 1)
	go func() {
		sum, err := l.FillSum(t.Context())
		if err == nil && sum != sha256.Sum256(d.plain) {
			err = errors.New("wrong digest")
		}
		res <- err
	}()
	select {
	case err := <-res:
		t.Fatalf("Fill does not make way: %v", err)
	default:
	}
	l.Hurry()
	must(t, <-res)
	l.Relax()
	if l.filling.class() != background || l.filling.hasty.Load() {
		t.Error("still in a hurry")
	}
}

// TestHurryLow holds that a layer somebody waits for is filled where others are not, for want of room.
func TestHurryLow(t *testing.T) {
	d := plainLayer(8, 10_000)
	s := mustOpen(t, t.TempDir(), Options{Quiet: now, Reserve: func(size int64) int64 { return size }})
	s.room.look(t.Context())
	if s.Stats().Room != Low {
		t.Fatalf("room is %d", s.Stats().Room)
	}
	l := mustLayer(t, s, d, d.source())
	res := make(chan error, 1)
	go func() { res <- l.Fill(t.Context()) }()
	waits(t, s)
	l.Hurry()
	must(t, <-res)
	must(t, l.Close())
}

// waits returns when somebody waits for room on disk.
func waits(t *testing.T, s *Store) {
	t.Helper()
	for t.Context().Err() == nil {
		s.room.mu.Lock()
		waiting := s.room.moved != nil
		s.room.mu.Unlock()
		if waiting {
			return
		}
		runtime.Gosched()
	}
}

// TestHurryFull holds that nobody in a hurry waits for a disk that is full, and that a layer is
// digested without one.
func TestHurryFull(t *testing.T) {
	d := plainLayer(40, 10_000)
	s := mustOpen(t, t.TempDir(), Options{MaxFetch: 50_000, Quiet: now})
	src := d.source()
	l := mustLayer(t, s, d, src)
	healthy := l.disk.data
	l.disk.data = &brokenFile{file: healthy, writeErr: unix.ENOSPC}
	res := make(chan error, 1)
	go func() {
		_, err := l.FillSum(t.Context())
		res <- err
	}()
	waits(t, s)
	l.Hurry()
	if err := <-res; !errors.Is(err, ErrUnwritten) {
		t.Fatalf("in a hurry on a full disk: %v", err)
	}
	for range 2 {
		if _, err := l.FillSum(t.Context()); !errors.Is(err, ErrUnwritten) {
			t.Errorf("again: %v", err)
		}
		var tar bytes.Buffer
		sum, err := l.SumThrough(t.Context(), &tar)
		if err != nil || sum != sha256.Sum256(d.plain) || !bytes.Equal(tar.Bytes(), d.plain) {
			t.Errorf("digest %x of %d bytes, %v", sum, tar.Len(), err)
		}
	}
	if st := l.Stats(); st.SpansPresent != 0 {
		t.Errorf("%d spans were written", st.SpansPresent)
	}
	l.Relax()
	go func() { res <- l.Fill(t.Context()) }()
	waits(t, s)
	l.disk.holes.Lock()
	l.disk.data = healthy
	l.disk.holes.Unlock()
	s.room.look(t.Context())
	must(t, <-res)
	must(t, l.Close())
}

// TestSumThrough digests layers of every kind, with nothing, something or all of them on disk, and from
// sources that are not what they should be.
func TestSumThrough(t *testing.T) {
	for name, d := range map[string]*layerData{"gzip": gzipLayer(t, 64<<10), "plain": plainLayer(5, 4096)} {
		t.Run(name, func(t *testing.T) {
			src := &wary{source: d.source()}
			l, err := mustOpen(t, t.TempDir(), Options{MaxFetch: 128 << 10, Quiet: now}).Layer("layer", d.zi, src)
			must(t, err)
			mustRead(t, l, d, 0, 1)
			var tar bytes.Buffer
			got, err := l.SumThrough(t.Context(), &tar)
			must(t, err)
			if !bytes.Equal(tar.Bytes(), d.plain) {
				t.Errorf("%d bytes of a tar of %d, or others", tar.Len(), len(d.plain))
			}
			want, err := l.FillSum(t.Context())
			if err != nil || got != want {
				t.Errorf("digest %x, want %x, %v", got, want, err)
			}
			for name, wrong := range map[string]error{"source": errBoom, "writer": errBoom, "bytes": ztoc.ErrDigest, "context": context.Canceled} {
				ctx, cancel := context.WithCancel(t.Context())
				w := &limited{n: 1 << 60}
				src.hook = func(_ context.Context, _ int, p []byte, off int64) error {
					switch name {
					case "source":
						return errBoom
					case "bytes":
						p[0] ^= 1
					case "context":
						cancel()
					}
					return nil
				}
				if name == "writer" {
					w.n = 1
				}
				if _, err := l.SumThrough(ctx, w); !errors.Is(err, wrong) {
					t.Errorf("%s: %v, want %v", name, err, wrong)
				}
				cancel()
			}
			if !slices.Contains(src.wrong, d.zi.Spans[0].In) {
				t.Errorf("the source was told of %v", src.wrong)
			}
			must(t, l.Close())
			if _, err := l.SumThrough(t.Context(), &tar); !errors.Is(err, ErrClosed) {
				t.Errorf("closed: %v", err)
			}
		})
	}
}

var errBoom = errors.New("boom")

// limited takes n bytes and no more.
type limited struct{ n int }

func (l *limited) Write(p []byte) (int, error) {
	if l.n -= len(p); l.n < 0 {
		return 0, errBoom
	}
	return len(p), nil
}

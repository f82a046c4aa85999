// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/ztoc"
)

// TestStormEvict has readers, fills and digests go on while spans are evicted as fast as can be, the disk
// fails, the source too, and the budget is small.
func TestStormEvict(t *testing.T) {
	layers := []*layerData{gzipLayer(t, 16<<10), plainLayer(40, 20_000), plainLayer(10, 300_000)}
	dir := t.TempDir()
	for _, limit := range []int64{0, 500_000} {
		s, err := Open(dir, Options{MaxFetch: 64 << 10, MaxMemory: 2 << 20, Quiet: now, MaxBytes: limit, Spare: func() bool { return true }})
		must(t, err)
		ctx, stop := context.WithCancel(t.Context())
		var readers, evictors sync.WaitGroup
		var all []*Layer
		for i, d := range layers {
			src := d.source()
			src.hook = func(_ context.Context, n int, p []byte, _ int64) error {
				switch n % 9 {
				case 2:
					return errors.New("boom")
				case 4:
					p[len(p)/2] ^= 1
				}
				return nil
			}
			l, err := s.Layer(string(rune('a'+i)), d.zi, src)
			must(t, err)
			all = append(all, l)
			if i == 1 {
				l.disk.data = &flakyFile{File: l.disk.data.(*os.File)}
			}
			for g := range 4 {
				readers.Go(func() { evictStorm(t, l, d, rand.New(rand.NewPCG(uint64(i), uint64(g)))) })
			}
		}
		evictors.Go(func() {
			r := rand.New(rand.NewPCG(7, 7))
			for ctx.Err() == nil {
				s.evict(ctx, r.Int64N(400_000), r.IntN(2) == 0)
				l := all[r.IntN(len(all))]
				if i := r.IntN(len(l.spans)); l.zi.Spans[i].Out.Len > 0 {
					if _, err := l.drop([]int{i}); err != nil {
						t.Error(err)
					}
				}
			}
		})
		readers.Wait()
		stop()
		evictors.Wait()
		for i, l := range all {
			d := layers[i]
			for j := range l.spans {
				out := d.zi.Spans[j].Out
				p := make([]byte, min(out.Len, max(l.Size()-out.Off, 0)))
				var err error
				for range 50 {
					if err = l.ReadAt(t.Context(), p, out.Off); err == nil {
						break
					}
				}
				if err != nil || !bytes.Equal(p, d.plain[out.Off:][:len(p)]) {
					t.Errorf("wrong bytes of layer %d, or %v", i, err)
				}
			}
		}
		must(t, s.Close())
		idle(t, s)
		for _, l := range all {
			consistent(t, l)
		}
		if n := s.room.bytes.Load(); n != 0 {
			t.Errorf("%d bytes are counted of no layer", n)
		}
	}
}

// evictStorm does some things to a layer, none of it for long: Fill may well wait for room.
func evictStorm(t *testing.T, l *Layer, d *layerData, r *rand.Rand) {
	size := int64(len(d.plain))
	for range 30 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		off := r.Int64N(size)
		p := make([]byte, r.Int64N(min(size-off, 100_000)+1))
		var err error
		switch r.IntN(10) {
		case 0:
			_ = l.Fill(ctx)
		case 1:
			_ = l.Prefetch(ctx, []ztoc.Range{{Off: off, Len: int64(len(p))}, {Off: size / 2, Len: 1}})
		case 2:
			var sum [sha256.Size]byte
			if sum, err = l.FillSum(ctx); err == nil && sum != sha256.Sum256(d.plain) && int64(len(d.plain)) == l.Size() && d.zi.Compression == ztoc.Uncompressed {
				t.Error("wrong digest")
			}
		case 3:
			if err = l.ReadLocal(p, off); err == nil && !bytes.Equal(p, d.plain[off:][:len(p)]) {
				t.Errorf("wrong bytes on disk at %d", off)
			}
		case 4:
			if x, ok := l.Extent(off, int64(len(p)), size); ok {
				if _, err := unix.Pread(x.Fd, p, x.Off); err == nil && !bytes.Equal(p, d.plain[off:][:len(p)]) {
					t.Errorf("wrong bytes in the extent at %d", off)
				}
				x.Release()
			}
		default:
			if err = l.ReadFile(ctx, p, off, ztoc.Range{Len: size}); err == nil && !bytes.Equal(p, d.plain[off:][:len(p)]) {
				t.Errorf("wrong bytes at %d", off)
			}
		}
		cancel()
	}
}

// flakyFile fails every few writes.
type flakyFile struct {
	*os.File
	mu sync.Mutex
	n  int
}

func (f *flakyFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	f.n++
	n := f.n
	f.mu.Unlock()
	switch n % 64 {
	case 3:
		return 0, unix.ENOSPC
	case 5, 25:
		k, _ := f.File.WriteAt(p[:len(p)/3], off)
		return k, unix.EIO
	}
	return f.File.WriteAt(p, off)
}

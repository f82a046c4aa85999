// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
)

// TestStorm has readers, fills and prefetches come, go and be cancelled, on layers
// whose sources fail, lie and break off, with little memory and few requests. Who
// gets bytes gets the right ones, and in the end nothing is left.
func TestStorm(t *testing.T) {
	layers := []*layerData{gzipLayer(t, 16<<10), gzipLayer(t, ztoc.EveryBlock), plainLayer(40, 20_000), gzipLayer(t, 64<<20)}
	var sources []*source
	for i, d := range layers {
		src := d.source()
		src.hook = func(ctx context.Context, n int, p []byte, _ int64) error {
			switch n % 7 {
			case 2:
				return errors.New("boom")
			case 4:
				p[len(p)/2] ^= 1
			case 5:
				if i == 1 {
					panic("oops")
				}
			}
			return ctx.Err()
		}
		r := rand.New(rand.NewPCG(3, uint64(i)))
		var mu sync.Mutex
		src.gate = func(ctx context.Context, _ int64) error {
			mu.Lock()
			defer mu.Unlock()
			switch r.IntN(100) {
			case 0:
				return errors.New("broken off")
			case 1:
				panic("oops, in the middle")
			}
			return ctx.Err()
		}
		sources = append(sources, src)
	}
	dir := t.TempDir()
	for round := range 4 {
		s, err := Open(dir, Options{MaxFetch: 64 << 10, MaxMemory: 300 << 10, Decoders: 1 + round%2, Requests: 2 + round, Retries: round % 2, Quiet: now})
		must(t, err)
		var wg sync.WaitGroup
		for i, d := range layers {
			l, err := s.Layer(string(rune('a'+i)), d.zi, sources[i])
			must(t, err)
			for g := range 6 {
				wg.Go(func() { storm(t, l, d, rand.New(rand.NewPCG(uint64(round), uint64(g)))) })
			}
		}
		if round == 2 {
			must(t, s.Close()) // under them
		}
		wg.Wait()
		var all []*Layer
		for l := range s.open {
			all = append(all, l)
		}
		must(t, errors.Join(s.Close()))
		idle(t, s)
		for _, l := range all {
			consistent(t, l)
		}
		for i, src := range sources {
			if src.open != 0 {
				t.Errorf("%d streams of layer %d are left open", src.open, i)
			}
		}
		if round == 1 {
			must(t, os.Truncate(dir+"/a/data", int64(len(layers[0].plain)/2)))
		}
	}
}

// storm does some things to a layer.
func storm(t *testing.T, l *Layer, d *layerData, r *rand.Rand) {
	size := int64(len(d.plain))
	for range 40 {
		ctx, cancel := context.WithCancel(t.Context())
		if r.IntN(3) == 0 {
			go cancel()
		}
		off := r.Int64N(size)
		n := r.Int64N(min(size-off, 100_000) + 1)
		switch r.IntN(10) {
		case 0:
			if err := l.Fill(ctx); err == nil && !l.Complete() {
				t.Error("filled, but not complete")
			}
		case 1:
			_ = l.Prefetch(ctx, []ztoc.Range{{Off: off, Len: n}, {Off: size / 2, Len: 1}, {Off: 0, Len: 10_000}})
		case 2:
			_, _ = l.Sum(ctx)
		default:
			p := make([]byte, n)
			if err := l.ReadFile(ctx, p, off, ztoc.Range{Len: size}); err == nil && !bytes.Equal(p, d.plain[off:off+n]) {
				t.Errorf("wrong bytes at %d", off)
			}
		}
		cancel()
	}
}

// consistent checks the counters of a closed layer.
func consistent(t *testing.T, l *Layer) {
	t.Helper()
	missing, onDisk := int64(0), int64(0)
	for i := range l.spans {
		st := l.spans[i].Load()
		if st != present {
			missing++
		}
		if st != absent {
			onDisk++
		}
	}
	if missing != l.missing.Load() || onDisk != l.stats.recorded.Load() {
		t.Errorf("%s: %d spans missing, counted %d; %d on disk, counted %d", l.key, missing, l.missing.Load(), onDisk, l.stats.recorded.Load())
	}
	if len(l.flights) != 0 || len(l.queued) != 0 || len(l.tasks) != 0 || l.refs.Load() != 0 {
		t.Errorf("%s: left: %d flights, %d requests, %d tasks, %d references", l.key, len(l.flights), len(l.queued), len(l.tasks), l.refs.Load())
	}
}

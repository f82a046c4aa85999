// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// benchLayer returns a gzip layer of 32 MiB that compresses to a third, with spans
// of 512 KiB.
func benchLayer(b *testing.B) *layerData {
	b.Helper()
	r := rand.New(rand.NewPCG(4, 4))
	words := make([][]byte, 4096)
	for i := range words {
		words[i] = make([]byte, 2+r.IntN(14))
		for k := range words[i] {
			words[i][k] = byte(r.Uint32())
		}
	}
	var text bytes.Buffer
	for text.Len() < 32<<20 {
		text.Write(words[r.IntN(len(words))])
	}
	files := ztoctest.Files(1, 1)
	files[len(files)-1].Data, files[len(files)-1].Size = text.Bytes(), int64(text.Len())
	plain, err := ztoctest.Tar(files, ztoctest.TarOptions{})
	must(b, err)
	blob, err := ztoctest.Member{Level: 6}.Encode(plain)
	must(b, err)
	z, err := ztoc.Build(b.Context(), bytes.NewReader(blob), ztoc.BuildOptions{SpanSize: 512 << 10})
	must(b, err)
	return &layerData{z.ZInfo, blob, plain[:z.ZInfo.UncompressedSize]}
}

// line is a Source behind a link. Its requests share the link's rate.
type line struct {
	data    []byte
	latency time.Duration // from a request to its first byte
	rate    float64       // bytes per second; 0 means any

	mu   sync.Mutex
	free time.Time // when the link has carried what was sent so far
}

func (s *line) Size() int64 { return int64(len(s.data)) }

func (s *line) Open(_ context.Context, off, n int64) (io.ReadCloser, error) {
	time.Sleep(s.latency)
	return io.NopCloser(&lineBody{s, bytes.NewReader(s.data[off : off+n])}), nil
}

type lineBody struct {
	s *line
	r *bytes.Reader
}

func (b *lineBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p[:min(len(p), 128<<10)])
	b.s.carry(n)
	return n, err
}

// carry waits until the link has carried n more bytes.
func (s *line) carry(n int) {
	if s.rate == 0 {
		return
	}
	s.mu.Lock()
	now := time.Now()
	if s.free.Before(now) {
		s.free = now
	}
	s.free = s.free.Add(time.Duration(float64(n) / s.rate * 1e9))
	wait := s.free.Sub(now)
	s.mu.Unlock()
	time.Sleep(wait)
}

// lines runs f on a source in memory, and behind 1 Gbit/s and 5 ms.
func lines(b *testing.B, f func(b *testing.B, d *layerData, src *line)) {
	d := benchLayer(b)
	b.Run("memory", func(b *testing.B) { f(b, d, &line{data: d.blob}) })
	b.Run("1Gbps5ms", func(b *testing.B) { f(b, d, &line{data: d.blob, latency: 5 * time.Millisecond, rate: 119e6}) })
}

// fresh opens an empty layer. stop ends it and reports what it fetched.
func fresh(b *testing.B, d *layerData, src Source) (l *Layer, stop func()) {
	b.Helper()
	s, err := Open(b.TempDir(), Options{})
	must(b, err)
	l, err = s.Layer("layer", d.zi, src)
	must(b, err)
	return l, func() { must(b, s.Close()) }
}

func report(b *testing.B, st Stats) {
	b.ReportMetric(float64(st.BytesFetched)/float64(b.N), "fetched/op")
	b.ReportMetric(float64(st.Requests)/float64(b.N), "requests/op")
}

// BenchmarkColdRead4K is one read of 4 KiB at a random place of an empty layer.
func BenchmarkColdRead4K(b *testing.B) {
	lines(b, func(b *testing.B, d *layerData, src *line) {
		r := rand.New(rand.NewPCG(5, 5))
		p := make([]byte, 4<<10)
		var sum Stats
		for b.Loop() {
			b.StopTimer()
			l, stop := fresh(b, d, src)
			off := r.Int64N(int64(len(d.plain)) - 4<<10)
			b.StartTimer()
			must(b, l.ReadAt(b.Context(), p, off))
			b.StopTimer()
			if !bytes.Equal(p, d.plain[off:][:4<<10]) {
				b.Fatal("wrong bytes")
			}
			stop()
			sum.BytesFetched += l.Stats().BytesFetched
			sum.Requests += l.Stats().Requests
			b.StartTimer()
		}
		report(b, sum)
	})
}

// BenchmarkSequentialCold reads an empty layer from its beginning to its end.
func BenchmarkSequentialCold(b *testing.B) {
	lines(b, func(b *testing.B, d *layerData, src *line) {
		b.SetBytes(int64(len(d.plain)))
		p := make([]byte, 128<<10)
		var sum Stats
		for b.Loop() {
			b.StopTimer()
			l, stop := fresh(b, d, src)
			b.StartTimer()
			for off := int64(0); off < int64(len(d.plain)); off += int64(len(p)) {
				p := p[:min(int64(len(p)), int64(len(d.plain))-off)]
				must(b, l.ReadAt(b.Context(), p, off))
				if !bytes.Equal(p, d.plain[off:][:len(p)]) {
					b.Fatal("wrong bytes")
				}
			}
			b.StopTimer()
			stop()
			sum.BytesFetched += l.Stats().BytesFetched
			sum.Requests += l.Stats().Requests
			b.StartTimer()
		}
		report(b, sum)
	})
}

// BenchmarkFill fills an empty layer.
func BenchmarkFill(b *testing.B) {
	lines(b, func(b *testing.B, d *layerData, src *line) {
		b.SetBytes(int64(len(d.plain)))
		p := make([]byte, len(d.plain))
		var sum Stats
		for b.Loop() {
			b.StopTimer()
			l, stop := fresh(b, d, src)
			b.StartTimer()
			must(b, l.Fill(b.Context()))
			b.StopTimer()
			if err := l.ReadAt(b.Context(), p, 0); err != nil || !bytes.Equal(p, d.plain) {
				b.Fatalf("wrong bytes, %v", err)
			}
			stop()
			sum.BytesFetched += l.Stats().BytesFetched
			sum.Requests += l.Stats().Requests
			b.StartTimer()
		}
		report(b, sum)
	})
}

// BenchmarkReadAt reads what is present.
func BenchmarkReadAt(b *testing.B) {
	d := plainLayer(64, 1<<20)
	l := mustLayer(b, mustOpen(b, b.TempDir(), Options{}), d, d.source())
	mustRead(b, l, d, 0, int64(len(d.plain)))
	settled(b, l)
	for _, n := range []int{4 << 10, 128 << 10} {
		b.Run(fmt.Sprintf("%dKiB", n>>10), func(b *testing.B) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			off := int64(0)
			for b.Loop() {
				must(b, l.ReadAt(b.Context(), p, off))
				if off += int64(n); off+int64(n) > int64(len(d.plain)) {
					off = 0
				}
			}
			if last := d.plain[:n]; off == int64(n) && !bytes.Equal(p, last) {
				b.Fatal("wrong bytes")
			}
		})
	}
	must(b, l.Close())
}

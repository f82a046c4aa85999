// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// source is a Source whose requests are counted and can be made to wait or fail.
type source struct {
	data []byte
	// hook, if set, is called for each request, numbered from 0, and may change what was read.
	hook func(ctx context.Context, n int, p []byte, off int64) error

	mu   sync.Mutex
	reqs []ztoc.Range
}

func (s *source) Size() int64 { return int64(len(s.data)) }

func (s *source) ReadAt(ctx context.Context, p []byte, off int64) error {
	s.mu.Lock()
	n := len(s.reqs)
	s.reqs = append(s.reqs, ztoc.Range{Off: off, Len: int64(len(p))})
	s.mu.Unlock()
	if off < 0 || off+int64(len(p)) > s.Size() {
		return errors.New("outside of the blob")
	}
	copy(p, s.data[off:])
	if s.hook != nil {
		return s.hook(ctx, n, p, off)
	}
	return ctx.Err()
}

func (s *source) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.reqs)
}

// layerData is a layer for tests: its zInfo, its compressed and its plain bytes.
type layerData struct {
	zi          *ztoc.ZInfo
	blob, plain []byte
}

func (d *layerData) source() *source { return &source{data: d.blob} }

// plainLayer returns an uncompressed layer of n spans of size bytes and a shorter one.
func plainLayer(n int, size int64) *layerData {
	r := rand.New(rand.NewPCG(1, uint64(size)))
	p := make([]byte, int64(n)*size+size/2)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	zi := &ztoc.ZInfo{Compression: ztoc.Uncompressed, SpanSize: size, CompressedSize: int64(len(p)), UncompressedSize: int64(len(p))}
	for off := int64(0); off < int64(len(p)); off += size {
		rg := ztoc.Range{Off: off, Len: min(size, int64(len(p))-off)}
		zi.Spans = append(zi.Spans, ztoc.Span{In: rg, Out: rg, Sum: sha256.Sum256(p[rg.Off:rg.End()])})
	}
	return &layerData{zi, p, p}
}

// gzipLayer returns a gzip layer made of a tar with one of everything.
func gzipLayer(t testing.TB, spanSize int64) *layerData {
	t.Helper()
	plain, err := ztoctest.Tar(ztoctest.Files(1, 20), ztoctest.TarOptions{})
	must(t, err)
	for _, e := range ztoctest.Encoders() {
		if !e.Available() {
			continue
		}
		blob, err := e.Encode(plain)
		must(t, err)
		z, err := ztoc.Build(t.Context(), bytes.NewReader(blob), ztoc.BuildOptions{SpanSize: spanSize})
		must(t, err)
		return &layerData{z.ZInfo, blob, plain[:z.ZInfo.UncompressedSize]}
	}
	t.Fatal("no encoder")
	return nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustOpen(t testing.TB, dir string, opts Options) *Store {
	t.Helper()
	s, err := Open(dir, opts)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func mustLayer(t testing.TB, s *Store, d *layerData, src Source) *Layer {
	t.Helper()
	l, err := s.Layer("layer", d.zi, src)
	must(t, err)
	return l
}

// mustRead reads [off,+n) and checks every byte.
func mustRead(t testing.TB, l *Layer, d *layerData, off, n int64) {
	t.Helper()
	p := make([]byte, n)
	must(t, l.ReadAt(t.Context(), p, off))
	if !bytes.Equal(p, d.plain[off:off+n]) {
		t.Fatalf("read [%d,+%d): wrong bytes", off, n)
	}
}

// settled waits until nothing is on its way.
func settled(t testing.TB, l *Layer) {
	t.Helper()
	must(t, l.store.memory.Acquire(t.Context(), l.store.opts.MaxMemory))
	l.store.memory.Release(l.store.opts.MaxMemory)
}

func statePath(dir string) string { return filepath.Join(dir, "layer", "state") }
func dataPath(dir string) string  { return filepath.Join(dir, "layer", "data") }

// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// source is a Source whose requests are counted and can be made to wait or fail.
type source struct {
	data []byte
	// hook, if set, is called for each request, numbered from 0, and may change what is read.
	hook func(ctx context.Context, n int, p []byte, off int64) error
	// gate, if set, is called before the bytes up to an offset of the layer are handed out.
	gate func(ctx context.Context, end int64) error

	mu   sync.Mutex
	reqs []ztoc.Range
	open int
}

func (s *source) Size() int64 { return int64(len(s.data)) }

func (s *source) Open(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	s.mu.Lock()
	i := len(s.reqs)
	s.reqs = append(s.reqs, ztoc.Range{Off: off, Len: n})
	s.mu.Unlock()
	if off < 0 || n <= 0 || n > s.Size()-off {
		return nil, errors.New("outside of the blob")
	}
	p := s.data[off : off+n]
	if s.hook != nil {
		p = bytes.Clone(p)
		if err := s.hook(ctx, i, p, off); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	s.open++
	s.mu.Unlock()
	return &sourceBody{s: s, ctx: ctx, r: bytes.NewReader(p), off: off}, nil
}

func (s *source) closed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
}

// sourceBody is the answer to one request.
type sourceBody struct {
	s    *source
	ctx  context.Context
	r    *bytes.Reader
	off  int64
	once sync.Once
}

func (b *sourceBody) Read(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		return 0, b.ctx.Err()
	}
	p = p[:min(len(p), b.r.Len())]
	if b.s.gate != nil {
		if err := b.s.gate(b.ctx, b.off+int64(len(p))); err != nil {
			return 0, err
		}
	}
	n, err := b.r.Read(p)
	b.off += int64(n)
	return n, err
}

func (b *sourceBody) Close() error {
	b.once.Do(b.s.closed)
	return nil
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
	if opts.Spare == nil {
		opts.Spare = func() bool { return true } // of tests at the same time
	}
	if opts.Around == 0 {
		opts.Around = -1 // a busy machine takes its own memory for far away
	}
	s, err := Open(dir, opts)
	must(t, err)
	t.Cleanup(func() {
		must(t, s.Close())
		idle(t, s)
	})
	return s
}

// idle checks that a closed store holds nothing any more.
func idle(t testing.TB, s *Store) {
	t.Helper()
	for name, g := range map[string]*gate{"slots": &s.slots, "memory": &s.memory} {
		if g.used != 0 || len(g.queue) != 0 {
			t.Errorf("%s: %d in use, %d waiting", name, g.used, len(g.queue))
		}
	}
	d := &s.decoders
	if d.readers != 0 || d.bulk != 0 || d.hungry != 0 || d.any(demand) || d.any(prefetch) || d.any(background) {
		t.Errorf("decoders are left: %d for readers, %d others", d.readers, d.bulk)
	}
	if s.calm.busy != 0 {
		t.Errorf("%d readers are left", s.calm.busy)
	}
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
	for t.Context().Err() == nil {
		l.mu.Lock()
		n := len(l.flights)
		l.mu.Unlock()
		if n == 0 {
			break
		}
		runtime.Gosched()
	}
	var u urgency
	n, err := l.store.memory.acquire(t.Context(), l.store.opts.MaxMemory, &u)
	must(t, err)
	l.store.memory.release(n)
}

func statePath(dir string) string { return filepath.Join(dir, "layer", "state") }
func dataPath(dir string) string  { return filepath.Join(dir, "layer", "data") }

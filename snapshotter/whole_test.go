// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// pipeBlob is a blob whose registry ignores ranges and sends what the test writes.
type pipeBlob struct {
	data  []byte
	opens chan *pipeBody // one for each answer of all of the blob

	mu     sync.Mutex
	ranges int // opened with OpenRange
}

// pipeBody is the sending side of an answer.
type pipeBody struct {
	*io.PipeWriter
	ended <-chan struct{} // closed when the receiver wants no more
}

func newPipeBlob(n int) *pipeBlob {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(p)
	return &pipeBlob{data: p, opens: make(chan *pipeBody, 16)}
}

func (b *pipeBlob) Size() int64 { return int64(len(b.data)) }

func (b *pipeBlob) Open(ctx context.Context) (io.ReadCloser, error) {
	return b.OpenRange(ctx, 0, b.Size())
}

func (b *pipeBlob) OpenRange(_ context.Context, off, n int64) (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ranges++
	return io.NopCloser(bytes.NewReader(b.data[off : off+n])), nil
}

func (b *pipeBlob) OpenRangeOrWhole(ctx context.Context, _, _ int64) (io.ReadCloser, bool, error) {
	r, w := io.Pipe()
	context.AfterFunc(ctx, func() { _ = r.CloseWithError(ctx.Err()) })
	b.opens <- &pipeBody{w, ctx.Done()}
	return r, true, nil
}

// wholeSource is a source whose downloads are below t.TempDir.
func wholeSource(t *testing.T, size int64, blobs ...blob) *layerSource {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "downloads")
	check(t, emptyDir(dir))
	s := &layerSource{size: size, dir: dir}
	for i := len(blobs) - 1; i >= 0; i-- {
		s.add(string(rune('a'+i)), blobs[i])
	}
	t.Cleanup(func() {
		check(t, s.Close())
		if left := must(os.ReadDir(dir))(t); len(left) != 0 {
			t.Errorf("%d files are left", len(left))
		}
	})
	return s
}

// answer is what a read in the background comes to.
type answer struct {
	p   []byte
	err error
}

// later opens a range and reads it in the background.
func later(ctx context.Context, t *testing.T, s *layerSource, off, n int64) <-chan answer {
	t.Helper()
	r := must(s.Open(ctx, off, n))(t)
	c := make(chan answer, 1)
	go func() {
		defer r.Close()
		p, err := io.ReadAll(r)
		c <- answer{p, err}
	}()
	return c
}

// TestWholeOnce reads at random from a registry that ignores ranges: it sends the
// layer once.
func TestWholeOnce(t *testing.T) {
	reg := registrytest.New(registrytest.Options{NoRange: true})
	defer reg.Close()
	b := newPipeBlob(20 << 20)
	size := b.Size()
	desc := must(reg.AddBlob("app", bytes.NewReader(b.data)))(t)
	client := must(registry.NewClient(registry.Options{PlainHTTP: true}))(t)
	defer client.Close()
	s := wholeSource(t, size, must(client.Repository(reg.Host()+"/app"))(t).Blob(desc))
	if got := must(readSource(t.Context(), s, size-1000, 900))(t); !bytes.Equal(got, b.data[size-1000:size-100]) {
		t.Error("wrong bytes at the end")
	}
	var wg sync.WaitGroup
	for i := range 8 {
		rng := rand.New(rand.NewPCG(1, uint64(i)))
		wg.Go(func() {
			for range 50 {
				off := rng.Int64N(size)
				n := rng.Int64N(min(size-off, 100_000) + 1)
				got, err := readSource(t.Context(), s, off, n)
				if err != nil || !bytes.Equal(got, b.data[off:off+n]) {
					t.Errorf("[%d,+%d): %d bytes, %v", off, n, len(got), err)
				}
			}
		})
	}
	wg.Wait()
	reg.Close() // what it sent is counted by now
	if got := reg.Stats().Range; got != (registrytest.Count{Requests: 1, Bytes: size}) {
		t.Errorf("the registry sent %+v, want %d bytes once", got, size)
	}
}

// TestWholeWaiters has some wait for bytes that come one after the other.
func TestWholeWaiters(t *testing.T) {
	b := newPipeBlob(100)
	s := wholeSource(t, 100, b)
	ctx, cancel := context.WithCancel(t.Context())
	first := later(ctx, t, s, 80, 10) // whose context made the request
	w := <-b.opens
	middle := later(t.Context(), t, s, 40, 10)
	last := later(t.Context(), t, s, 90, 10)
	must(w.Write(b.data[:50]))(t)
	if a := <-middle; a.err != nil || !bytes.Equal(a.p, b.data[40:50]) {
		t.Errorf("middle: %q, %v", a.p, a.err)
	}
	cancel()
	if a := <-first; !errors.Is(a.err, context.Canceled) {
		t.Errorf("cancelled: %v", a.err)
	}
	must(w.Write(b.data[50:]))(t)
	if a := <-last; a.err != nil || !bytes.Equal(a.p, b.data[90:]) {
		t.Errorf("last: %q, %v", a.p, a.err)
	}
	check(t, w.Close())
	if got, err := readSource(t.Context(), s, 0, 100); err != nil || !bytes.Equal(got, b.data) {
		t.Errorf("afterwards: %d bytes, %v", len(got), err)
	}
	if len(b.opens) != 0 || b.ranges != 0 {
		t.Errorf("%d more downloads, %d ranges", len(b.opens), b.ranges)
	}
}

// TestWholeBreaks ends a download in the middle, in several ways: who waits gets an
// error, and the next one a new download.
func TestWholeBreaks(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(w *pipeBody) error
		want error
	}{
		{"error", func(w *pipeBody) error { return w.CloseWithError(errFlaky) }, errFlaky},
		{"short", func(w *pipeBody) error { return w.Close() }, io.ErrUnexpectedEOF},
		{"long", func(w *pipeBody) error { _, err := w.Write(make([]byte, 51)); return err }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newPipeBlob(100)
			s := wholeSource(t, 100, b)
			had := later(t.Context(), t, s, 10, 10)
			w := <-b.opens
			waits := []<-chan answer{later(t.Context(), t, s, 45, 10), later(t.Context(), t, s, 90, 10)}
			must(w.Write(b.data[:50]))(t)
			check(t, c.end(w))
			if a := <-had; a.err != nil {
				t.Errorf("what was there: %v", a.err)
			}
			for _, c2 := range waits[1:] {
				if a := <-c2; a.err == nil || c.want != nil && !errors.Is(a.err, c.want) {
					t.Errorf("%v, want %v", a.err, c.want)
				}
			}
			if a := <-waits[0]; a.err == nil || !bytes.Equal(a.p, b.data[45:50]) {
				t.Errorf("half: %q, %v", a.p, a.err)
			}
			again := later(t.Context(), t, s, 90, 10)
			w = <-b.opens
			must(w.Write(b.data))(t)
			check(t, w.Close())
			if a := <-again; a.err != nil || !bytes.Equal(a.p, b.data[90:]) {
				t.Errorf("again: %q, %v", a.p, a.err)
			}
		})
	}
}

// TestWholeUnwanted leaves a download alone: it ends, as it does with Close.
func TestWholeUnwanted(t *testing.T) {
	b := newPipeBlob(100)
	s := wholeSource(t, 100, b)
	s.grace = 1
	check(t, must(s.Open(t.Context(), 50, 10))(t).Close())
	<-(<-b.opens).ended
	waits := later(t.Context(), t, s, 50, 10)
	w := <-b.opens
	must(w.Write(b.data[:20]))(t)
	check(t, s.Close())
	if a := <-waits; a.err == nil {
		t.Error("a read outlives Close")
	}
	<-w.ended
	if _, err := s.Open(t.Context(), 50, 10); !errors.Is(err, os.ErrClosed) {
		t.Errorf("open after Close: %v", err)
	}
	<-(<-b.opens).ended
}

// TestWholeKept has all of a layer stay until nobody has read from it for a while.
func TestWholeKept(t *testing.T) {
	b := newPipeBlob(100)
	s := wholeSource(t, 100, b)
	got := later(t.Context(), t, s, 99, 1)
	w := <-b.opens
	must(w.Write(b.data))(t)
	check(t, w.Close())
	if a := <-got; a.err != nil {
		t.Fatal(a.err)
	}
	<-w.ended // the download has come to its end
	s.mu.Lock()
	d := s.whole
	s.mu.Unlock()
	if life := s.lifetime(d); life != downloadKept {
		t.Errorf("it is kept for %s, want %s", life, downloadKept)
	}
}

// TestWholeOtherRanges has a second repository that answers ranges: it is preferred.
func TestWholeOtherRanges(t *testing.T) {
	b := newPipeBlob(100)
	other := &flakyBlob{data: b.data, good: 100}
	s := wholeSource(t, 100, b, other)
	for range 2 {
		if got, err := readSource(t.Context(), s, 50, 10); err != nil || !bytes.Equal(got, b.data[50:60]) {
			t.Errorf("%q, %v", got, err)
		}
	}
	<-(<-b.opens).ended
	if len(b.opens) != 0 || other.opened != 2 {
		t.Errorf("%d more downloads, %d ranges", len(b.opens), other.opened)
	}
}

// TestWholeNoDisk cannot make a file, or loses it: ranges are read then, as they come.
func TestWholeNoDisk(t *testing.T) {
	b := newPipeBlob(100)
	s := wholeSource(t, 100, b)
	dir := s.dir
	s.dir = filepath.Join(dir, "missing")
	if got, err := readSource(t.Context(), s, 50, 10); err != nil || !bytes.Equal(got, b.data[50:60]) {
		t.Errorf("no directory: %q, %v", got, err)
	}
	<-(<-b.opens).ended
	s.dir = dir
	lost := later(t.Context(), t, s, 50, 10)
	w := <-b.opens
	s.mu.Lock()
	check(t, s.whole.file.Close())
	s.mu.Unlock()
	must(w.Write(b.data[:20]))(t)
	if a := <-lost; a.err != nil || !bytes.Equal(a.p, b.data[50:60]) {
		t.Errorf("file lost: %q, %v", a.p, a.err)
	}
	if b.ranges != 2 {
		t.Errorf("%d ranges, want 2", b.ranges)
	}
}

// TestDownloadDir sweeps, and refuses what is too large.
func TestDownloadDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "downloads")
	check(t, emptyDir(dir))
	check(t, os.WriteFile(filepath.Join(dir, "layer-1"), nil, 0o600))
	was := must(os.Stat(dir))(t)
	check(t, emptyDir(dir))
	if left := must(os.ReadDir(dir))(t); len(left) != 0 {
		t.Errorf("%d files are left", len(left))
	}
	if !os.SameFile(was, must(os.Stat(dir))(t)) {
		t.Error("the directory was made anew: on a full disk it could not be")
	}
	for _, size := range []int64{-1, 1 << 62} {
		if _, err := newDownloadFile(dir, size); !errors.Is(err, errFile) {
			t.Errorf("file of %d bytes: %v", size, err)
		}
	}
}

// TestNoDirectories starts where neither downloads nor unpacked layers can have a directory, as on
// a full disk: it starts, without them.
func TestNoDirectories(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/a:1", 1, 2, 3).build(t, -1)
	i.bindIndex(t, i.index.Layers[0]) // the others are to be unpacked
	unpack, downloads := filepath.Join(f.opts.Root, "snapshotter", "unpack"), filepath.Join(f.opts.Root, "soci", "downloads")
	f.restart(func() {
		for _, dir := range []string{unpack, downloads} { // which not even root can empty, or make a file in
			check(t, unix.Mount("none", dir, "tmpfs", 0, "size=64k"))
			t.Cleanup(func() { check(t, unix.Unmount(dir, unix.MNT_DETACH)) })
			check(t, os.WriteFile(filepath.Join(dir, "left"), nil, 0o600))
			check(t, unix.Mount("none", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		}
	})
	if f.layers.wholeDir != "" {
		t.Errorf("downloads are in %q", f.layers.wholeDir)
	}
	if !f.stage.off.Load() {
		t.Error("layers are unpacked ahead")
	}
	f.prepareAll(i)
}

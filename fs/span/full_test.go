// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of a few MiB and returns where.
func smallDisk(t *testing.T, kind string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts a small file system")
	}
	dir := t.TempDir()
	mount := exec.Command("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", dir)
	if kind == "ext4" {
		image := filepath.Join(t.TempDir(), "image")
		must(t, os.WriteFile(image, nil, 0o600))
		must(t, os.Truncate(image, 8<<20))
		if out, err := exec.Command("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image).CombinedOutput(); err != nil {
			t.Skipf("needs mkfs.ext4: %v: %s", err, out)
		}
		mount = exec.Command("mount", "-o", "loop", image, dir)
	}
	if out, err := mount.CombinedOutput(); err != nil {
		t.Skipf("needs CAP_SYS_ADMIN and, for ext4, a loop device: mounts a small %s: %v: %s", kind, err, out)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// fillUp writes a file until there is room for nothing more.
func fillUp(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for _, n := range []int{64 << 10, 512, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, n))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
}

// told collects what Options.OnRoom is told.
type told struct {
	states chan Room
	why    chan error
}

func newTold() told { return told{make(chan Room, 100), make(chan error, 100)} }

func (r told) tell(state Room, why error) { r.states <- state; r.why <- why }

func (r told) want(t *testing.T, state Room) error {
	t.Helper()
	select {
	case got := <-r.states:
		if got != state {
			t.Fatalf("told %d, want %d", got, state)
		}
		return <-r.why
	case <-t.Context().Done():
		return nil
	}
}

// TestNoSpace reads from a layer whose disk is full to the last byte: readers get their bytes,
// without fetching a span for each piece of it; Fill waits; and all of it goes on when
// there is room again.
func TestNoSpace(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			const size = 64 << 10
			disk := smallDisk(t, kind)
			d := plainLayer(32, size)
			room := newTold()
			s, err := Open(filepath.Join(disk, "spans"), Options{Quiet: now, OnRoom: room.tell, Spare: func() bool { return true }})
			must(t, err)
			defer func() { must(t, s.Close()) }()
			src := d.source()
			l := mustLayer(t, s, d, src)
			fillUp(t, filepath.Join(disk, "others"))
			for off := int64(0); off < 4*size; off += 8 << 10 {
				mustRead(t, l, d, off, 8<<10)
			}
			if err := room.want(t, Full); !errors.Is(err, unix.ENOSPC) {
				t.Errorf("full because of %v", err)
			}
			settled(t, l)
			if n := src.requests(); n > 6 { // what was to be read ahead comes along before it is known
				t.Errorf("%d requests for 4 spans", n)
			}
			st := l.Stats()
			if st.WriteErrors == 0 || s.Stats().KeptBytes == 0 || s.Stats().Room != Full {
				t.Errorf("%d write errors, store %+v", st.WriteErrors, s.Stats())
			}
			n := src.requests()
			res := make(chan error, 2)
			go func() { res <- l.Fill(t.Context()) }()
			go func() { res <- l.Prefetch(t.Context(), l.Touched()) }()
			for range 10 {
				mustRead(t, l, d, 3*size, 100) // and readers are served beside them
			}
			if m := src.requests(); m != n {
				t.Errorf("%d requests though nothing could be written", m-n)
			}
			must(t, os.Remove(filepath.Join(disk, "others")))
			for range 2 {
				must(t, <-res)
			}
			room.want(t, Enough)
			if !l.Complete() || s.Stats().KeptBytes != 0 {
				t.Errorf("complete: %v, %d bytes kept", l.Complete(), s.Stats().KeptBytes)
			}
			mustRead(t, l, d, 0, int64(len(d.plain)))
			must(t, l.Close())
			l = mustLayer(t, s, d, d.source())
			mustRead(t, l, d, 0, int64(len(d.plain))) // what is recorded is there
			must(t, l.Close())
		})
	}
}

// TestReadOnlyDisk has the disk become read-only under a layer, and opens another on it.
func TestReadOnlyDisk(t *testing.T) {
	const size = 64 << 10
	disk := smallDisk(t, "tmpfs")
	d := plainLayer(8, size)
	s, err := Open(filepath.Join(disk, "spans"), Options{Quiet: now})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	l := mustLayer(t, s, d, d.source())
	mustRead(t, l, d, 0, 2*size)
	settled(t, l)
	must(t, l.Close())
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	src := d.source()
	l = mustLayer(t, s, d, src)
	mustRead(t, l, d, 0, 2*size)
	if n := src.requests(); n != 0 {
		t.Errorf("%d requests for what is on disk", n)
	}
	other, err := s.Layer("other", d.zi, d.source())
	must(t, err)
	for _, l := range []*Layer{l, other} {
		for range 3 {
			mustRead(t, l, d, 0, int64(len(d.plain)))
		}
		settled(t, l)
	}
	if st := other.Stats(); st.SpansPresent != 0 || st.WriteErrors == 0 {
		t.Errorf("%d spans on a disk that is read-only, %d write errors", st.SpansPresent, st.WriteErrors)
	}

	// Both are written to once that can be done, as they are open.
	must(t, unix.Mount("", disk, "", unix.MS_REMOUNT, ""))
	s.room.look(t.Context())
	for _, l := range []*Layer{l, other} {
		must(t, l.Fill(t.Context()))
		mustExtent(t, l, 0, l.Size()).Release()
		key := l.key
		must(t, l.Close())
		src := d.source()
		l, err := s.Layer(key, d.zi, src)
		must(t, err)
		mustRead(t, l, d, 0, int64(len(d.plain)))
		if n := src.requests(); n != 0 {
			t.Errorf("%s: %d requests after all of it was written", key, n)
		}
		must(t, l.Close())
	}
}

// TestKept holds kept spans to their bound.
func TestKept(t *testing.T) {
	k := kept{limit: 1000}
	a, b := new(Layer), new(Layer)
	p := make([]byte, 300)
	for i := range 10 {
		p[0] = byte(i)
		k.add(a, i, p)
		k.add(b, i, p)
		if k.bytes > k.limit || k.bytes != 300*int64(len(k.spans)) {
			t.Fatalf("%d bytes of %d spans", k.bytes, len(k.spans))
		}
		q := make([]byte, 2)
		if !k.read(a, i, 0, q) || q[0] != byte(i) { // and is now the last to go
			t.Fatalf("span %d is not there, or wrong: %v", i, q)
		}
	}
	if k.read(b, 8, 0, p) || !k.read(a, 8, 0, p) {
		t.Error("the wrong spans went")
	}
	k.add(a, 1, make([]byte, 5000))
	if k.bytes != 5000 || len(k.spans) != 1 {
		t.Errorf("%d bytes of %d spans", k.bytes, len(k.spans))
	}
	k.drop(a, 1)
	k.add(a, 2, p)
	k.forget(a)
	if k.bytes != 0 || len(k.spans) != 0 || k.n.Load() != 0 {
		t.Errorf("%d bytes of %d spans", k.bytes, len(k.spans))
	}
}

// TestTooManySpans holds that a zInfo of very many tiny spans is refused.
func TestTooManySpans(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{})
	for n, ok := range map[int]bool{4000: true, 70_000: false} {
		d := plainLayer(n, 2)
		_, err := s.Layer(fmt.Sprint("layer", n), d.zi, d.source())
		if ok != (err == nil) || !ok && !errors.Is(err, ErrSpans) {
			t.Errorf("%d spans: %v", n, err)
		}
	}
}

// TestSilentSource has a reader wait for a source that sends nothing: Fill of another layer goes
// on after a while, as it does not while bytes come in.
func TestSilentSource(t *testing.T) {
	d := plainLayer(4, 1000)
	s := mustOpen(t, t.TempDir(), Options{Quiet: now})
	l := mustLayer(t, s, d, d.source())
	defer l.Close()
	w := l.wait()
	defer w.end()
	busy := func() int {
		s.calm.mu.Lock()
		defer s.calm.mu.Unlock()
		return s.calm.busy
	}
	for range 3 {
		l.stats.bytesFetched.Add(1)
		w.look()
		if busy() != 1 {
			t.Fatal("the background goes on while bytes come in")
		}
	}
	w.look()
	if busy() != 0 {
		t.Error("the background makes way for a reader whose source is silent")
	}
	w.look()
	w.end()
	if busy() != 0 {
		t.Errorf("%d readers wait", busy())
	}
}

// TestBytesAsTheyCome counts bytes of a stream before its end.
func TestBytesAsTheyCome(t *testing.T) {
	const size = 100_000
	d := plainLayer(10, size)
	src := d.source()
	hold, reached := make(chan struct{}), make(chan struct{}, 100)
	src.gate = func(_ context.Context, end int64) error {
		if end > 5*size {
			reached <- struct{}{}
			<-hold
		}
		return nil
	}
	l := mustLayer(t, mustOpen(t, t.TempDir(), Options{Quiet: now}), d, src)
	res := make(chan error)
	go func() { res <- l.Fill(t.Context()) }()
	<-reached
	if n := l.Stats().BytesFetched; n < 4*size || n > 6*size {
		t.Errorf("%d bytes in the middle of a stream", n)
	}
	close(hold)
	must(t, <-res)
	if n := l.Stats().BytesFetched; n != int64(len(d.blob)) {
		t.Errorf("%d bytes of %d", n, len(d.blob))
	}
	must(t, l.Close())
}

// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// mustStore is mustAttach for tests that look into the span store, whose directory it returns.
func mustStore(t testing.TB, f *FS, name string, b *built) (path, store string, l *span.Layer) {
	t.Helper()
	store = t.TempDir()
	s, err := span.Open(store, span.Options{Quiet: -1})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	l, err = s.Layer(name, b.z.ZInfo, b.blob)
	must(t, err)
	a, err := f.Attach(name, 0, b.z, l)
	must(t, err)
	return a.Path, store, l
}

// TestCrowd has very many reads wait for one layer while another is read.
func TestCrowd(t *testing.T) {
	const n = 300
	f := mustMount(t)
	b := mustBuild(t, []ztoctest.File{ztoctest.Big(1, "big", n*4096)})
	gate := make(chan struct{})
	b.blob.hook = func(ctx context.Context) error {
		select {
		case <-gate:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	slow, _ := mustAttach(t, f, "slow", b)
	c := command(t, "crowd", filepath.Join(slow, "big"), fmt.Sprint(n))
	var out bytes.Buffer
	c.Stdout = &out
	must(t, c.Start())
	waiting := func() int {
		f.server.reads.mu.Lock()
		defer f.server.reads.mu.Unlock()
		return len(f.server.reads.m)
	}
	until(t, func() bool { return waiting() == n })

	quick := mustBuild(t, ztoctest.Files(2, 50))
	d, _ := mustAttach(t, f, "quick", quick)
	compare(t, mustDump(t, d), mustDump(t, extract(t, quick.tar)), implied(quick.z.TOC))
	if got := waiting(); got != n {
		t.Errorf("%d reads wait", got)
	}

	close(gate)
	must(t, c.Wait())
	e := b.z.TOC[0]
	sums := strings.Fields(out.String())
	if len(sums) != n {
		t.Fatalf("%d pages read", len(sums))
	}
	for i, sum := range sums {
		if want := fmt.Sprintf("%x", sha256.Sum256(b.tar[e.Offset+int64(i)*4096:][:4096])); sum != want {
			t.Errorf("page %d: wrong bytes", i)
		}
	}
	until(t, func() bool { return waiting() == 0 })
	if idle := f.server.idle.Load(); idle > idleLoops+1 {
		t.Errorf("%d loops are left", idle)
	}
	if kept := len(f.server.workers.free); kept > keptWorkers {
		t.Errorf("%d workers are kept", kept)
	}
}

// TestSplice reads what is on disk, in a file that is not page aligned there, and
// what is not on disk any more.
func TestSplice(t *testing.T) {
	f := mustMount(t)
	b := mustBuild(t, []ztoctest.File{ztoctest.Big(1, "small", 100), ztoctest.Big(2, "big", 3<<20+77)})
	d, store, l := mustStore(t, f, "layer", b)
	must(t, l.Fill(t.Context()))
	e := b.z.TOC[1]
	if e.Offset%4096 == 0 {
		t.Fatal("the file is page aligned")
	}
	want := b.tar[e.Offset : e.Offset+e.Size]
	got, err := exec.Command("cat", filepath.Join(d, "big")).Output()
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("wrong bytes")
	}
	st := f.Stats()
	if st.Spliced == 0 || st.Spliced > st.Reads || st.BytesRead < e.Size {
		t.Errorf("stats %+v", st)
	}

	// The disk has lost the second half of it: the bytes come from the source again.
	must(t, os.Truncate(filepath.Join(store, "layer", "data"), e.Offset+e.Size/2))
	direct := exec.Command("dd", "if="+filepath.Join(d, "big"), "bs=512K", "iflag=direct", "status=none")
	got, err = direct.Output()
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("wrong bytes from a truncated file")
	}
	if st := f.Stats(); st.ReadErrors != 0 {
		t.Errorf("stats %+v", st)
	}
	must(t, l.Close())
}

// TestDebug serves the slow way, which is logged.
func TestDebug(t *testing.T) {
	needMount(t)
	tmp := t.TempDir()
	var log atomic.Int64
	h := slog.NewTextHandler(writerFunc(func(p []byte) (int, error) { log.Add(1); return len(p), nil }), &slog.HandlerOptions{Level: slog.LevelDebug})
	f, err := Mount(filepath.Join(tmp, "mnt"), Options{StateDir: filepath.Join(tmp, "state"), Debug: true, Log: slog.New(h)})
	must(t, err)
	b := mustBuild(t, ztoctest.Files(1, 50))
	d, _ := mustAttach(t, f, "layer", b)
	compare(t, mustDump(t, d), mustDump(t, extract(t, b.tar)), implied(b.z.TOC))
	must(t, f.Close())
	if log.Load() < 100 {
		t.Errorf("%d lines logged", log.Load())
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestReadPanics reads from a layer that is broken in a way that cannot be.
func TestReadPanics(t *testing.T) {
	f := mustMount(t)
	d, _ := mustAttach(t, f, "layer", mustBuild(t, []ztoctest.File{ztoctest.Big(1, "big", 1000)}))
	good := f.table.Load()
	broken := good.clone()
	for slot, l := range good.slots {
		broken.slots[slot] = &layer{name: l.name, slot: slot, tree: l.tree, data: new(span.Layer)}
	}
	f.table.Store(broken)
	if err := exec.Command("cat", filepath.Join(d, "big")).Run(); err == nil {
		t.Error("read from nothing")
	}
	if st := f.Stats(); st.Panics == 0 {
		t.Errorf("stats %+v", st)
	}
	f.table.Store(good)
	must(t, exec.Command("cat", filepath.Join(d, "big")).Run())
}

// TestAbort has the administrator abort the connection under a read that waits.
func TestAbort(t *testing.T) {
	f := mustMount(t)
	ctl := t.TempDir()
	must(t, unix.Mount("none", ctl, "fusectl", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(ctl, unix.MNT_DETACH)) })
	b := mustBuild(t, []ztoctest.File{ztoctest.Big(1, "big", 1<<20)})
	asked := make(chan struct{}, 100)
	b.blob.hook = func(ctx context.Context) error {
		asked <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	d, _ := mustAttach(t, f, "layer", b)
	c := command(t, "direct", filepath.Join(d, "big"))
	c.Stderr = nil
	must(t, c.Start())
	<-asked
	var stx unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, f.dir, unix.AT_STATX_DONT_SYNC, 0, &stx))
	must(t, os.WriteFile(filepath.Join(ctl, fmt.Sprint(stx.Dev_minor), "abort"), []byte("1"), 0))
	if err := c.Wait(); err == nil {
		t.Error("read after an abort")
	}
	<-f.served
	must(t, f.Close())
}

// TestCloseStuckNotification closes the file system while a process holds the lock of
// its root that a notification waits for, and does not get on.
func TestCloseStuckNotification(t *testing.T) {
	f, other := mustMount(t), mustMount(t)
	b := mustBuild(t, []ztoctest.File{ztoctest.Big(1, "big", 1<<20)})
	asked, gate := make(chan struct{}, 100), make(chan struct{})
	b.blob.hook = func(ctx context.Context) error {
		asked <- struct{}{}
		select {
		case <-gate:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	d, _ := mustAttach(t, other, "slow", b)
	lazy, _ := mustAttach(t, f, "layer", mustBuild(t, []ztoctest.File{ztoctest.Big(1, "big", 1000)}))
	must(t, exec.Command("ls", lazy).Run()) // the kernel knows the name
	c := command(t, "stuck", f.dir, filepath.Join(d, "big"))
	c.Stderr = nil
	must(t, c.Start())
	<-asked
	detached := make(chan error)
	go func() { detached <- f.Detach("layer") }()
	until(t, func() bool { return f.Stats().Layers == 0 })
	if err := f.Close(); err == nil || !strings.Contains(err.Error(), "notification") {
		t.Errorf("close: %v", err)
	}
	close(gate)
	<-detached
	c.Wait()
	until(t, func() bool { return f.server.users.Load() == 0 })
}

// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// needMount skips tests where file systems cannot be mounted.
func needMount(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts file systems")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse")
	}
}

func mustMount(t testing.TB) *FS {
	t.Helper()
	return mustMountWith(t, Options{})
}

func mustMountWith(t testing.TB, opts Options) *FS {
	t.Helper()
	needMount(t)
	tmp := t.TempDir()
	opts.StateDir, opts.Log = filepath.Join(tmp, "state"), slog.New(slog.DiscardHandler)
	f, err := Mount(filepath.Join(tmp, "mnt"), opts)
	must(t, err)
	t.Cleanup(func() {
		if err := f.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
	return f
}

// blob is a span.Source in memory.
type blob struct {
	data []byte
	hook func(ctx context.Context) error
}

func (b *blob) Size() int64 { return int64(len(b.data)) }

func (b *blob) Open(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if b.hook != nil {
		if err := b.hook(ctx); err != nil {
			return nil, err
		}
	}
	return io.NopCloser(bytes.NewReader(b.data[off : off+n])), nil
}

// built is a layer for tests.
type built struct {
	tar  []byte
	z    *ztoc.ZTOC
	blob *blob
}

func mustBuild(t testing.TB, files []ztoctest.File) *built {
	t.Helper()
	tar, err := ztoctest.Tar(files, ztoctest.TarOptions{})
	must(t, err)
	gz, err := ztoctest.Members(tar, len(tar)+1, ztoctest.Member{})
	must(t, err)
	z, err := ztoc.Build(t.Context(), bytes.NewReader(gz), ztoc.BuildOptions{SpanSize: 64 << 10})
	must(t, err)
	return &built{tar, z, &blob{data: gz}}
}

// mustAttach attaches a layer and returns its directory and its data.
func mustAttach(t testing.TB, f *FS, name string, b *built) (string, *span.Layer) {
	t.Helper()
	s, err := span.Open(t.TempDir(), span.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	l, err := s.Layer(name, b.z.ZInfo, b.blob)
	must(t, err)
	a, err := f.Attach(name, 0, b.z, l)
	must(t, err)
	return a.Path, l
}

func TestMountEqualsExtraction(t *testing.T) {
	f := mustMount(t)
	b := mustBuild(t, ztoctest.Files(1, 300))
	d, l := mustAttach(t, f, "layer", b)
	want := mustDump(t, extract(t, b.tar))
	compare(t, mustDump(t, d), want, implied(b.z.TOC))
	if len(want) < 300 {
		t.Errorf("only %d files compared", len(want))
	}
	if st := f.Stats(); st.Reads == 0 || st.Layers != 1 || st.ReadErrors+st.Panics != 0 {
		t.Errorf("stats %+v", st)
	}
	must(t, l.Close())

	out, err := exec.Command("findmnt", "-r", "-n", "-o", "SOURCE,FSTYPE,OPTIONS", "--mountpoint", f.dir).Output()
	must(t, err)
	for _, opt := range []string{"soci fuse.rawBridge", "ro", "allow_other", "default_permissions"} {
		if !strings.Contains(string(out), opt) {
			t.Errorf("mount options %q lack %s", out, opt)
		}
	}
	// A bind mount of a layer inherits these, and its setuid files and devices would be dead.
	for _, opt := range []string{"nosuid", "nodev", "noexec"} {
		if strings.Contains(string(out), opt) {
			t.Errorf("mount options %q have %s", out, opt)
		}
	}
}

// TestOverlay stacks layers that replace, hide and whiten each other, and compares
// with overlayfs on the extracted layers.
func TestOverlay(t *testing.T) {
	for _, n := range []int{2, 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			f := mustMount(t)
			var lazy, unpacked []string
			all := map[string]bool{".": true}
			for i := range n {
				b := mustBuild(t, ztoctest.Files(uint64(i), 20*(i+1)))
				d, l := mustAttach(t, f, fmt.Sprintf("layer%d", i), b)
				must(t, l.Close()) // f has its own handle
				lazy = append(lazy, d)
				unpacked = append(unpacked, extract(t, b.tar))
				maps.Copy(all, implied(b.z.TOC))
			}
			m := overlay(t, lazy)
			got := mustDump(t, m)
			compare(t, got, mustDump(t, overlay(t, unpacked)), all)
			if len(got) < 20*n {
				t.Errorf("only %d files compared", len(got))
			}
			overlay(t, []string{m, t.TempDir()}) // as a container in the container makes it
		})
	}
}

// TestKilledReader kills a process that waits for a read: its fetch is cancelled.
func TestKilledReader(t *testing.T) {
	f := mustMount(t)
	b := mustBuild(t, []ztoctest.File{ztoctest.Big(1, "big", 1<<20)})
	asked, gone := make(chan struct{}, 100), make(chan struct{}, 100)
	b.blob.hook = func(ctx context.Context) error {
		asked <- struct{}{}
		<-ctx.Done()
		gone <- struct{}{}
		return ctx.Err()
	}
	d, _ := mustAttach(t, f, "layer", b)
	c := command(t, "direct", filepath.Join(d, "big"))
	must(t, c.Start())
	<-asked
	must(t, c.Process.Signal(unix.SIGWINCH)) // ignored by default: no reason to give up
	must(t, c.Process.Signal(unix.SIGKILL))
	<-gone
	c.Wait()
	if !c.ProcessState.Sys().(interface{ Signaled() bool }).Signaled() {
		t.Errorf("reader ended with %v", c.ProcessState)
	}
	until(t, func() bool { return f.Stats().Interrupted == 1 })
}

// until waits for a condition that the kernel will bring about.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.After(2 * time.Minute); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("gave up")
		}
	}
}

// TestReadError reads from a layer whose source fails, then from the same when it works again.
func TestReadError(t *testing.T) {
	f := mustMount(t)
	b := mustBuild(t, []ztoctest.File{ztoctest.Big(1, "big", 1<<20)})
	var down atomic.Bool
	down.Store(true)
	b.blob.hook = func(context.Context) error {
		if down.Load() {
			return errors.New("no network")
		}
		return nil
	}
	d, _ := mustAttach(t, f, "layer", b)
	if err := exec.Command("cat", filepath.Join(d, "big")).Run(); err == nil {
		t.Error("read without a source")
	}
	if st := f.Stats(); st.ReadErrors == 0 {
		t.Errorf("stats %+v", st)
	}
	down.Store(false)
	got, err := exec.Command("cat", filepath.Join(d, "big")).Output()
	must(t, err)
	e := b.z.TOC[0]
	if !bytes.Equal(got, b.tar[e.Offset:e.Offset+e.Size]) {
		t.Error("wrong bytes")
	}
}

// TestDetachInUse detaches a layer under an open file, which goes on being served;
// after that, the layer is let go.
func TestDetachInUse(t *testing.T) {
	f := mustMount(t)
	b := mustBuild(t, []ztoctest.File{ztoctest.Big(1, "dir/big", 1<<20)})
	d, l := mustAttach(t, f, "layer", b)
	c := command(t, "hold", filepath.Join(d, "dir/big"))
	in, err := c.StdinPipe()
	must(t, err)
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	lines := bufio.NewScanner(out)
	lines.Scan()

	must(t, f.Detach("layer"))
	must(t, l.Close())
	if err := f.Detach("layer"); !errors.Is(err, ErrNotAttached) {
		t.Errorf("second detach: %v", err)
	}
	if ls, err := exec.Command("ls", "-a", f.dir).Output(); err != nil || string(ls) != ".\n..\n" {
		t.Errorf("root lists %q, %v", ls, err)
	}
	if err := exec.Command("ls", d).Run(); err == nil {
		t.Error("detached layer can be listed")
	}
	if st := f.Stats(); st.Held != 1 || st.Layers != 0 {
		t.Errorf("stats %+v", st)
	}
	fmt.Fprintln(in, "read")
	if lines.Scan(); len(lines.Text()) != 64 {
		t.Errorf("read of a detached layer: %q", lines.Text())
	}
	must(t, c.Wait())
	until(t, func() bool { f.sweep(); return f.Stats().Held == 0 })
	until(t, func() bool { // its data is let go
		if err := l.Retain(); err != nil {
			return errors.Is(err, span.ErrClosed)
		}
		must(t, l.Close())
		return false
	})

	// The same name again is another layer, at once.
	d, l = mustAttach(t, f, "layer", mustBuild(t, []ztoctest.File{ztoctest.Big(2, "other", 1000)}))
	if ls, err := exec.Command("ls", d).Output(); err != nil || string(ls) != "other\n" {
		t.Errorf("new layer lists %q, %v", ls, err)
	}
	must(t, l.Close())
}

// TestRace attaches, reads and detaches from many sides.
func TestRace(t *testing.T) {
	f := mustMount(t)
	b := mustBuild(t, ztoctest.Files(3, 10))
	s, err := span.Open(t.TempDir(), span.Options{})
	must(t, err)
	stop := make(chan struct{})
	var readers, wg sync.WaitGroup
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				exec.Command("sh", "-c", "cat "+f.dir+"/*/* >/dev/null 2>&1; ls -lR "+f.dir+" >/dev/null 2>&1").Run()
			}
		}
	})
	for g := range 4 {
		wg.Go(func() {
			for i := range 15 {
				name := fmt.Sprintf("layer%d", (g*7+i)%8)
				l, err := s.Layer(name, b.z.ZInfo, b.blob)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := f.Attach(name, 0, b.z, l); err != nil && !errors.Is(err, ErrExists) {
					t.Error(err)
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
				if err := f.Detach(name); err != nil && !errors.Is(err, ErrNotAttached) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	readers.Wait()
	until(t, func() bool { f.sweep(); return f.Stats().Held == 0 })
	must(t, f.Close())
	must(t, s.Close())
}

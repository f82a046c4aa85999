// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// mustRaw returns the FUSE face of a file system that is not mounted, with one layer in slot 5.
func mustRaw(t testing.TB, toc []ztoc.Entry) *raw {
	t.Helper()
	tr, err := newTree(entries(toc), layerSize, false, plenty())
	must(t, err)
	f := &FS{opts: Options{Log: slog.New(slog.DiscardHandler)}, done: make(chan struct{})}
	l := &layer{name: "l", slot: 5, tree: tr}
	f.table.Store(&table{slots: map[uint32]*layer{5: l}, names: map[string]*layer{"l": l}, sorted: []string{"l"}})
	return &raw{f: f}
}

func node5(i uint64) *fuse.InHeader { return &fuse.InHeader{NodeId: 5<<32 | i} }

func TestLookup(t *testing.T) {
	r := mustRaw(t, []ztoc.Entry{file("a", 1), file("d/b", 2), link("z", "a")})
	for _, c := range []struct {
		dir     *fuse.InHeader
		name    string
		st      fuse.Status
		node    uint64
		forever bool
	}{
		{&fuse.InHeader{NodeId: 1}, "l", fuse.OK, 5 << 32, false},
		{&fuse.InHeader{NodeId: 1}, "m", fuse.ENOENT, 0, false},
		{node5(0), "a", fuse.OK, 5<<32 | 1, true},
		{node5(0), "z", fuse.OK, 5<<32 | 1, true},
		{node5(0), "b", fuse.OK, 0, true},
		{node5(0), "", fuse.OK, 0, true},
		{node5(2), "b", fuse.OK, 5<<32 | 4, true},
		{node5(1), "b", fuse.ENOTDIR, 0, false},
		{node5(3), "b", fuse.Status(unix.ESTALE), 0, false}, // an alias is no node
		{node5(99), "b", fuse.Status(unix.ESTALE), 0, false},
		{&fuse.InHeader{NodeId: 6 << 32}, "a", fuse.Status(unix.ESTALE), 0, false},
		{&fuse.InHeader{NodeId: math.MaxUint64}, "a", fuse.Status(unix.ESTALE), 0, false},
	} {
		var out fuse.EntryOut
		st := r.Lookup(nil, c.dir, c.name, &out)
		if st != c.st || out.NodeId != c.node || (out.EntryTimeout() == forever) != c.forever || out.Ino != c.node {
			t.Errorf("lookup %x %q: %v, %+v", c.dir.NodeId, c.name, st, out)
		}
	}
	if n := r.f.table.Load().slots[5].lookups.Load(); n != 4 {
		t.Errorf("%d lookups counted", n)
	}
}

// TestReadDirChunks lists with buffers of every size that fits one entry: nothing is
// lost or repeated.
func TestReadDirChunks(t *testing.T) {
	var toc []ztoc.Entry
	for i := range 50 {
		toc = append(toc, file(strings.Repeat("n", i%40+1)+fmt.Sprint(i), 1))
	}
	r := mustRaw(t, toc)
	for size := 80; size < 3000; size += 97 {
		var names []string
		for off := uint64(0); ; {
			in := &fuse.ReadIn{InHeader: *node5(0), Offset: off}
			out := fuse.NewDirEntryList(make([]byte, size), off)
			if st := r.ReadDir(nil, in, out); !st.Ok() {
				t.Fatal(st)
			}
			es, err := fuse.ParseDirEntries(out.Bytes())
			must(t, err)
			if len(es) == 0 {
				break
			}
			for _, e := range es {
				names = append(names, e.Name)
				off = e.Off
			}
		}
		if len(names) != 52 || names[0] != "." || names[1] != ".." {
			t.Fatalf("buffer of %d: %d names", size, len(names))
		}
	}
	out := fuse.NewDirEntryList(make([]byte, 1000), math.MaxUint64)
	if st := r.ReadDir(nil, &fuse.ReadIn{InHeader: *node5(0), Offset: math.MaxUint64}, out); !st.Ok() || len(out.Bytes()) != 0 {
		t.Errorf("past the end: %v, %d bytes", st, len(out.Bytes()))
	}
}

func TestXattrSizes(t *testing.T) {
	r := mustRaw(t, []ztoc.Entry{{Name: "a", Type: ztoc.TypeReg, PAX: []ztoc.Record{{Key: "SCHILY.xattr.user.k", Value: "value"}}}, file("b", 1)})
	for _, c := range []struct {
		node uint64
		key  string
		room int
		n    uint32
		st   fuse.Status
	}{
		{1, "user.k", 0, 5, fuse.ERANGE}, {1, "user.k", 4, 5, fuse.ERANGE}, {1, "user.k", 5, 5, fuse.OK}, {1, "user.k", 99, 5, fuse.OK},
		{1, "user.x", 9, 0, fuse.ENODATA}, {2, "user.k", 9, 0, fuse.ENODATA}, {9, "user.k", 9, 0, fuse.Status(unix.ESTALE)},
	} {
		if n, st := r.GetXAttr(nil, node5(c.node), c.key, make([]byte, c.room)); n != c.n || st != c.st {
			t.Errorf("get %+v: %d, %v", c, n, st)
		}
	}
	for room, want := range map[int]fuse.Status{0: fuse.ERANGE, 6: fuse.ERANGE, 7: fuse.OK} {
		if n, st := r.ListXAttr(nil, node5(1), make([]byte, room)); n != 7 || st != want {
			t.Errorf("list into %d: %d, %v", room, n, st)
		}
	}
	if n, st := r.ListXAttr(nil, node5(2), nil); n != 0 || !st.Ok() {
		t.Errorf("list of none: %d, %v", n, st)
	}
}

func TestFailed(t *testing.T) {
	f := mustRaw(t, nil).f
	var buf strings.Builder
	f.opts.Log = slog.New(slog.NewTextHandler(&buf, nil))
	l := f.table.Load().slots[5]
	for err, want := range map[error]fuse.Status{
		&span.Error{Layer: "k", Span: 7, Err: io.ErrUnexpectedEOF}: fuse.EIO,
		&span.Error{Layer: "k", Span: 7, Err: span.ErrClosed}:      fuse.EIO,
		context.Canceled:                                      fuse.EINTR,
		fmt.Errorf("read: %w", context.Canceled):              fuse.EINTR,
		&span.Error{Layer: "k", Span: 7, Err: ztoc.ErrDigest}: fuse.EIO,
	} {
		if st := f.failed(l, err); st != want {
			t.Errorf("%v became %v", err, st)
		}
	}
	if n := strings.Count(buf.String(), "\n"); n != 1 || !strings.Contains(buf.String(), "layer=l") || !strings.Contains(buf.String(), "span=7") {
		t.Errorf("logged %d lines: %s", n, buf.String())
	}
	if held, ok := l.failures.log(time.Now().Add(2 * time.Second)); !ok || held != 2 {
		t.Errorf("%d held back, log again: %v", held, ok)
	}
}

func TestSlots(t *testing.T) {
	d := t.TempDir()
	seen := map[uint32]bool{0: true}
	for range 5 {
		s, err := openSlots(d)
		must(t, err)
		for range slotBatch + 3 {
			n, err := s.next()
			must(t, err)
			if seen[n] {
				t.Fatalf("slot %d given out twice", n)
			}
			seen[n] = true
		}
	}
	// One that is in use, though the counter knows nothing of it.
	s, err := openSlots(d)
	must(t, err)
	must(t, s.claim(100_000))
	must(t, s.claim(7))
	if n, err := s.next(); err != nil || n != 100_001 {
		t.Errorf("next slot %d, %v", n, err)
	}
	if s, err = openSlots(d); err != nil || s.free <= 100_000 {
		t.Errorf("counter is %+v, %v", s, err)
	}
	if err := s.claim(math.MaxUint32); err == nil {
		t.Error("slot beyond the last claimed")
	}
	must(t, os.WriteFile(filepath.Join(d, "slots"), []byte("4294967290\n"), 0o600))
	s, err = openSlots(d)
	must(t, err)
	if n, err := s.next(); err == nil {
		t.Errorf("slot %d after the last", n)
	}
	if _, err := openSlots(""); err == nil {
		t.Error("no directory accepted")
	}
}

// TestStaleMount mounts where a killed process has left a mount.
func TestStaleMount(t *testing.T) {
	needMount(t)
	tmp := t.TempDir()
	dir, state := filepath.Join(tmp, "mnt"), filepath.Join(tmp, "state")
	for range 2 {
		c := command(t, "daemon", dir, state)
		out, err := c.StdoutPipe()
		must(t, err)
		must(t, c.Start())
		if s := bufio.NewScanner(out); !s.Scan() {
			t.Fatal("child did not mount")
		}
		if _, err := Mount(dir, Options{StateDir: state}); !errors.Is(err, ErrMounted) {
			t.Errorf("mount over a live one: %v", err)
		}
		must(t, c.Process.Kill())
		c.Wait()
	}
	f, err := Mount(dir, Options{StateDir: state, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	must(t, f.Close())
	if err := f.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("second close: %v", err)
	}
	must(t, os.Remove(dir)) // nothing is mounted any more
}

// TestCloseInUse closes the file system under an overlay.
func TestCloseInUse(t *testing.T) {
	f := mustMount(t)
	d, _ := mustAttach(t, f, "layer", mustBuild(t, []ztoctest.File{ztoctest.Big(1, "big", 1000)}))
	d2, _ := mustAttach(t, f, "layer2", mustBuild(t, []ztoctest.File{ztoctest.Big(1, "big2", 1000)}))
	m := overlay(t, []string{d, d2})
	must(t, f.Close())
	if err := exec.Command("cat", m+"/big").Run(); err == nil {
		t.Error("read after Close")
	}
	if err := f.Detach("layer"); !errors.Is(err, ErrClosed) {
		t.Errorf("detach after Close: %v", err)
	}
}

// TestCloseStuck closes the file system while the kernel does not take a notification.
func TestCloseStuck(t *testing.T) {
	f := mustMount(t)
	mustAttach(t, f, "layer", mustBuild(t, []ztoctest.File{ztoctest.Big(1, "big", 1000)}))
	f.wg.Add(1) // as Detach does meanwhile
	err := f.Close()
	f.wg.Done()
	if err == nil || !strings.Contains(err.Error(), "notification") {
		t.Errorf("close: %v", err)
	}
	must(t, os.Remove(f.dir)) // nothing is mounted any more
}

// TestNames attaches under names that are none, and changes a read-only mount.
func TestNames(t *testing.T) {
	f := mustMount(t)
	b := mustBuild(t, []ztoctest.File{ztoctest.Big(1, "big", 1000)})
	d, l := mustAttach(t, f, "layer", b)
	for _, name := range []string{"", ".", "..", "a/b", "a\x00", strings.Repeat("x", 256)} {
		if _, err := f.Attach(name, 0, b.z, l); err == nil {
			t.Errorf("name %q accepted", name)
		}
	}
	if _, err := f.Attach("layer", 0, b.z, l); !errors.Is(err, ErrExists) {
		t.Errorf("name taken: %v", err)
	}
	if _, err := f.Attach("bad", 0, entries{file("../x", 1)}, l); !errors.Is(err, ErrTOC) {
		t.Errorf("bad TOC: %v", err)
	}
	for _, sh := range []string{"touch x", "touch big", "mkdir d", "rm big", "mv big b", "ln big b", "ln -s a b", "chmod 1 big", "chown 1 big", "echo >> big", "setfattr -n user.a -v b big"} {
		if err := exec.Command("sh", "-c", "cd "+d+" && "+sh).Run(); err == nil {
			t.Errorf("%s succeeded", sh)
		}
	}
	for _, name := range []string{"other", "one more"} {
		if exec.Command("ls", f.dir+"/"+name).Run() == nil {
			t.Errorf("%s is there", name)
		}
		mustAttach(t, f, name, b) // what was missing is seen at once
		if out, err := exec.Command("ls", f.dir, f.dir+"/"+name).CombinedOutput(); err != nil || !strings.Contains(string(out), "big") {
			t.Errorf("%s after attach: %s, %v", name, out, err)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package tree

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sample is a small tree.
func sample(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "d/e"), 0o750))
	must(t, os.WriteFile(filepath.Join(dir, "d/file"), []byte("content"), 0o640))
	must(t, os.Link(filepath.Join(dir, "d/file"), filepath.Join(dir, "d/e/link")))
	must(t, os.WriteFile(filepath.Join(dir, "odd name\n"), nil, 0o600))
	must(t, os.Symlink("d/file", filepath.Join(dir, "sym")))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	stamp := time.Unix(1700000000, 123456789)
	for _, name := range []string{"d/file", "odd name\n", "fifo", "d/e", "d", "."} {
		must(t, os.Chtimes(filepath.Join(dir, name), stamp, stamp))
	}
	ts := unix.NsecToTimespec(stamp.UnixNano())
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, "sym"), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	return dir
}

func lines(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, Write(&b, dir))
	return b.String()
}

func TestEqualTreesAreEqual(t *testing.T) {
	a, b := lines(t, sample(t)), lines(t, sample(t))
	if d := Diff(a, b, 10); len(d) > 0 {
		t.Errorf("two equal trees differ:\n%s", strings.Join(d, "\n"))
	}
	if n := strings.Count(a, "\n"); n != 8 {
		t.Errorf("%d lines, want 8:\n%s", n, a)
	}
}

// TestEveryChangeShows changes one thing at a time.
func TestEveryChangeShows(t *testing.T) {
	stamp := time.Unix(1700000000, 123456789)
	for _, tt := range []struct {
		name   string
		change func(dir string) error
		want   string // in a line that differs
	}{
		{"content", func(d string) error { return os.WriteFile(d+"/d/file", []byte("CONTENT"), 0o640) }, "sha256"},
		{"mode", func(d string) error { return unix.Chmod(d+"/d/file", 0o4640) }, "mode=104640"},
		{"directory mode", func(d string) error { return os.Chmod(d+"/d", 0o755) }, "mode=40755"},
		{"nanosecond", func(d string) error { return os.Chtimes(d+"/fifo", stamp, stamp.Add(1)) }, "mtime=1700000000.123456790"},
		{"symlink", func(d string) error { return os.Rename(d+"/sym", d+"/symlink") }, "symlink"},
		{"hard link", func(d string) error { return os.Link(d+"/d/file", d+"/d/g") }, "nlink=3"},
		{"xattr", func(d string) error { return unix.Lsetxattr(d+"/d/file", "user.x", []byte("v"), 0) }, `user.x="v"`},
		{"removal", func(d string) error { return os.Remove(d + "/fifo") }, `"fifo"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := sample(t)
			before := lines(t, dir)
			must(t, tt.change(dir))
			d := strings.Join(Diff(before, lines(t, dir), 10), "\n")
			if !strings.Contains(d, tt.want) {
				t.Errorf("the difference does not show %q:\n%s", tt.want, d)
			}
		})
	}
}

func TestWriteWithoutRoot(t *testing.T) {
	if err := Write(new(strings.Builder), filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("no error for a tree that is not there")
	}
}

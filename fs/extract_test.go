// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/ztoc"
)

// extract unpacks a layer with GNU tar, finishes it as containerd does and gives
// whiteouts their overlayfs form.
func extract(t testing.TB, layer []byte) string {
	t.Helper()
	dir := t.TempDir()
	c := exec.Command("tar", "--delay-directory-restore", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-owner", "-xpf", "-", "-C", dir)
	c.Stdin = bytes.NewReader(layer)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	finish(t, dir, layer)
	var wh []string
	must(t, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if strings.HasPrefix(e.Name(), ".wh.") {
			wh = append(wh, p)
		}
		return err
	}))
	for _, p := range wh {
		var st unix.Stat_t
		d, base := filepath.Split(p)
		must(t, unix.Stat(d, &st))
		var own unix.Stat_t
		must(t, unix.Lstat(p, &own))
		must(t, os.RemoveAll(p))
		switch {
		case base == whOpaque:
			must(t, unix.Setxattr(d, opaqueTr, []byte("y"), 0))
		case strings.HasPrefix(base, whMeta):
		default:
			q := filepath.Join(d, base[len(whPrefix):])
			must(t, unix.Mknod(q, unix.S_IFCHR, 0))
			must(t, os.Lchown(q, 0, 0)) // the directory may be setgid
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, q, []unix.Timespec{own.Mtim, own.Mtim}, 0))
		}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, d, []unix.Timespec{st.Mtim, st.Mtim}, 0))
	}
	return dir
}

// finish does to the extracted layer in dir what containerd does and GNU tar does
// not: the header of a hard link counts for its file, and no time is before 1970.
func finish(t testing.TB, dir string, layer []byte) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		must(t, err)
		old := h.ModTime.Before(time.Unix(0, 0))
		if h.Typeflag != tar.TypeLink && !old {
			continue
		}
		p := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeLink {
			must(t, os.Lchown(p, h.Uid, h.Gid))
			if st, err := os.Lstat(p); err == nil && st.Mode()&fs.ModeSymlink == 0 {
				must(t, unix.Chmod(p, uint32(h.Mode)))
			}
		}
		ts, err := unix.TimeToTimespec(h.ModTime)
		if must(t, err); old {
			ts = unix.Timespec{}
		}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// compare reports what differs between two dumps. The root and directories that
// no entry describes get their times from whoever made them.
func compare(t *testing.T, got, want map[string]seen, implied map[string]bool) {
	t.Helper()
	for _, p := range slices.Sorted(maps.Keys(want)) {
		g, ok := got[p]
		w := want[p]
		if implied[p] {
			g.Sec, g.Nsec, w.Sec, w.Nsec = 0, 0, 0, 0
			g.Mode, g.UID, g.GID, w.Mode, w.UID, w.GID = 0, 0, 0, 0, 0, 0
		}
		if !ok {
			t.Errorf("%s is missing", p)
		} else if !reflect.DeepEqual(g, w) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", p, g, w)
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			t.Errorf("%s is not in the layer", p)
		}
	}
}

// implied returns the directories of a TOC that have no entry.
func implied(toc []ztoc.Entry) map[string]bool {
	m := map[string]bool{".": true}
	for _, e := range toc {
		for d := filepath.Dir(filepath.Clean(e.Name)); d != "."; d = filepath.Dir(d) {
			m[d] = true
		}
	}
	for _, e := range toc {
		if e.Type == ztoc.TypeDir {
			delete(m, filepath.Clean(e.Name))
		}
	}
	return m
}

// overlay mounts an overlayfs over lower directories, lowest first.
func overlay(t testing.TB, lower []string) string {
	t.Helper()
	tmp := t.TempDir()
	for _, d := range []string{"u", "w", "m"} {
		must(t, os.Mkdir(filepath.Join(tmp, d), 0o755))
	}
	slices.Reverse(lower)
	m := filepath.Join(tmp, "m")
	must(t, unix.Mount("overlay", m, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s/u,workdir=%s/w", strings.Join(lower, ":"), tmp, tmp)))
	t.Cleanup(func() { must(t, unix.Unmount(m, 0)) })
	return m
}

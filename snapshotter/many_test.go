// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/registry/registrytest"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// quickDir returns a directory in memory, where there is a file system for that:
// every step of a Prepare is synced, which takes most of a test's time on a disk.
func quickDir(t testing.TB) string {
	t.Helper()
	const shm = "/dev/shm"
	var st unix.Statfs_t
	if unix.Statfs(shm, &st) != nil || st.Type != unix.TMPFS_MAGIC {
		return t.TempDir()
	}
	dir := must(os.MkdirTemp(shm, "snapshotter-test-"))(t)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	return dir
}

// openDeleted returns this process's open files below dir that have been deleted.
func openDeleted(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	for _, e := range must(os.ReadDir("/proc/self/fd"))(t) {
		to, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		if err == nil && strings.HasPrefix(to, dir) && strings.HasSuffix(to, " (deleted)") {
			out = append(out, to)
		}
	}
	return out
}

// remove removes the snapshots of i from layer first up.
func (i *testImage) remove(t testing.TB, s *Snapshotter, first int) {
	t.Helper()
	for n := len(i.chains) - 1; n >= first; n-- {
		check(t, s.Remove(testContext(t), i.chains[n].String()))
	}
}

// TestManyLayers runs an image of 100 layers, and nine images of its first ten
// layers and one of their own; before and after a restart. What
// is removed gives back its disk space, and what is not goes on being served.
func TestManyLayers(t *testing.T) {
	needFUSE(t)
	const layers, shared, images = 100, 10, 9
	var files [][]ztoctest.File
	for n := range layers {
		files = append(files, []ztoctest.File{testDir("d/", 0o755, 0), testFile(fmt.Sprintf("d/layer-%02d", n)), testFile("top")})
	}
	reg := registrytest.New(registrytest.Options{})
	defer reg.Close()
	all := []*testImage{newImageOf(t, newMemory(), "", files...)}
	for n := range images {
		own := []ztoctest.File{testDir("d/", 0o755, 0), testFile(fmt.Sprintf("d/own-%d", n))}
		all = append(all, newImageOf(t, newMemory(), "", append(files[:shared:shared], own)...))
	}
	root := quickDir(t)
	s := newReal(t, root)
	var want []string
	for n, i := range all {
		i.build(t, -1).push(t, reg, fmt.Sprintf("app/%d", n))
		pullImage(t, s, i)
		want = append(want, sums(t, unpackAll(t, i)))
	}
	if n := len(s.Layers()); n != layers+images {
		t.Errorf("%d layers are served, want %d", n, layers+images)
	}
	read := func(n int) {
		t.Helper()
		key := fmt.Sprint("container-", n)
		t.Run(key, func(t *testing.T) {
			if got := sums(t, run(t, s, key, all[n].top())); got != want[n] {
				t.Errorf("container reads\n%swant\n%s", got, want[n])
			}
		})
		check(t, s.Remove(testContext(t), key))
	}
	read(0)
	read(1)
	check(t, s.Close())
	s = newReal(t, root)
	read(0)
	read(2)
	for _, i := range all[2:] {
		i.remove(t, s, shared)
	}
	all[0].remove(t, s, shared)
	if n := len(s.Layers()); n != shared+1 {
		t.Errorf("%d layers are served, want %d", n, shared+1)
	}
	read(1)
	all[1].remove(t, s, 0)
	check(t, s.Cleanup(testContext(t)))
	for _, dir := range []string{"soci/layers", "soci/spans", "snapshotter/snapshots", "snapshotter/mnt"} {
		if e := must(os.ReadDir(filepath.Join(root, dir)))(t); len(e) != 0 {
			t.Errorf("%v left in %s", e, dir)
		}
	}
	tick := time.NewTicker(time.Millisecond) // files are closed once the kernel has forgotten theirs
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); len(openDeleted(t, root)) > 0; <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("deleted files are open: %v", openDeleted(t, root))
		}
	}
}

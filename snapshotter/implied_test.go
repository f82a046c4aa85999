// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/registry/registrytest"
	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

func testDir(name string, mode int64, uid int) ztoctest.File {
	return ztoctest.File{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, Uid: uid, ModTime: time.Unix(1600000000, 0)}}
}

func testFile(name string) ztoctest.File {
	data := []byte(strings.Repeat(name, 100))
	return ztoctest.File{
		Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(1600000000, 0)},
		Data:   data,
	}
}

// TestImplied unpacks the layers that imply a directory which is not an ordinary
// one in a lazy layer below, and leaves it what it is. All others are lazy.
func TestImplied(t *testing.T) {
	needFUSE(t)
	reg := registrytest.New(registrytest.Options{})
	defer reg.Close()
	i := newImageOf(t, newMemory(), "",
		[]ztoctest.File{
			testDir("tmp/", 0o1777, 0), testDir("home/", 0o755, 0), testDir("home/user/", 0o755, 1000), testDir("usr/", 0o755, 0),
			testFile("usr/a"), testFile("etc/a"), {Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "bin", Linkname: "tmp"}},
		},
		[]ztoctest.File{testFile("usr/b"), testFile("opt/deep/er/x"), testFile("etc/b")},
		[]ztoctest.File{testFile("tmp/x"), testFile("usr/c")},
		[]ztoctest.File{testFile("home/user/.profile")},
		[]ztoctest.File{testDir("tmp/", 0o700, 0), testFile("tmp/y")},
		[]ztoctest.File{testFile("tmp/z")},
		[]ztoctest.File{{Header: tar.Header{Typeflag: tar.TypeReg, Name: ".wh.tmp"}}},
		[]ztoctest.File{testFile("tmp/anew")},
		[]ztoctest.File{testFile("bin/x")}, // replaces the link, and is what that led to
	)
	want := []bool{true, true, false, false, true, false, true, true, false} // lazy
	x, _, err := index.Build(t.Context(), i.m, i.desc, index.V1, index.BuildOptions{
		ZTOC: ztoc.BuildOptions{SpanSize: 64 << 10}, MinLayerSize: -1,
	})
	check(t, err)
	i.index = x
	i.push(t, reg, "library/implied")
	s := newReal(t, t.TempDir())
	upper := make([]string, len(want))
	for n, lazy := range want {
		_, err := s.Prepare(testContext(t), fmt.Sprint("extract-", n), i.parent(n), snapshots.WithLabels(i.labels(n)))
		if !errdefs.IsAlreadyExists(err) {
			t.Fatalf("prepare layer %d: %v", n, err)
		}
		name := i.chains[n].String()
		info := must(s.Stat(testContext(t), name))(t)
		if isRemote(info.Labels) != lazy {
			t.Errorf("layer %d: labels %v, want lazy %v", n, info.Labels, lazy)
		}
		id := ""
		check(t, s.ms.WithTransaction(testContext(t), false, func(ctx context.Context) (err error) {
			id, _, _, err = storage.GetInfo(ctx, name)
			return err
		}))
		upper[n] = s.upper(id)
	}
	for _, c := range []struct {
		layer int
		path  string
		mode  uint32
		uid   uint32
	}{
		{1, "usr", 0o755, 0}, {1, "opt/deep/er", 0o755, 0},
		{2, "tmp", 0o1777, 0}, {3, "home/user", 0o755, 1000}, {4, "tmp", 0o700, 0}, {5, "tmp", 0o700, 0}, {7, "tmp", 0o755, 0}, {8, "bin", 0o1777, 0},
	} {
		var st unix.Stat_t
		check(t, unix.Stat(filepath.Join(upper[c.layer], c.path), &st))
		if st.Mode != unix.S_IFDIR|c.mode || st.Uid != c.uid {
			t.Errorf("layer %d: %s is %o of %d, want %o of %d", c.layer, c.path, st.Mode, st.Uid, c.mode, c.uid)
		}
	}
	if _, err := os.Lstat(filepath.Join(upper[3], "home/user/.profile")); err != nil {
		t.Error(err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/fs/span"
)

// onDisk returns what is below the root of lazy layers, as usage counts it.
func (f *fixture) onDisk() snapshots.Usage {
	f.t.Helper()
	var u snapshots.Usage
	for _, dir := range []string{"layers", "spans"} {
		top := filepath.Join(f.opts.Root, "soci", dir)
		check(f.t, filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
			var st unix.Stat_t
			if path == top || err != nil {
				return err
			}
			u.Inodes++
			err = unix.Lstat(path, &st)
			u.Size += st.Blocks * 512
			return err
		}))
	}
	return u
}

// read reads all of layer n of i.
func (f *fixture) fill(i *testImage, n int) *span.Layer {
	f.t.Helper()
	l, ok := f.layers.get(i.key(n))
	if !ok {
		f.t.Fatalf("layer %d is not there", n)
	}
	data, _ := l.spans()
	check(f.t, data.Fill(f.t.Context()))
	return data
}

// TestUsage sums the usage of all snapshots, as the CRI does: it is what is on disk.
func TestUsage(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	a := newImage(t, m, "registry.test/a:1", 1, 2).build(t, -1)
	b := newImage(t, m, "registry.test/b:1", 3, 2).build(t, -1)
	f.prepareAll(a)
	f.prepareAll(b) // has a layer of a, with another parent
	sum := func() (u snapshots.Usage) {
		check(t, f.Walk(testContext(t), func(_ context.Context, info snapshots.Info) error {
			one, err := f.Usage(testContext(t), info.Name)
			u.Add(one)
			return err
		}))
		return u
	}
	before := sum()
	if want := f.onDisk(); before != want || before.Inodes != 3*7 {
		t.Errorf("usage is %v, want %v", before, want)
	}
	for n := range 2 {
		f.fill(a, n)
	}
	after := sum()
	if want := f.onDisk(); after != want || after.Size <= before.Size {
		t.Errorf("usage is %v, want %v", after, want)
	}
	check(t, f.Remove(testContext(t), a.top()))
	if got, want := sum(), f.onDisk(); got != want {
		t.Errorf("without the snapshot that was counted, usage is %v, want %v", got, want)
	}
	check(t, f.Remove(testContext(t), b.top()))
	if got, want := sum(), f.onDisk(); got != want || got.Size >= after.Size || len(f.payers) > 2 {
		t.Errorf("without the layer, usage is %v, want %v; counted are %v", got, want, f.payers)
	}
	must(f.Prepare(testContext(t), "container", b.chains[0].String()))(t)
	mounts := must(f.Mounts(testContext(t), "container"))(t)
	var upper string
	for _, o := range mounts[0].Options {
		if n, _ := fmt.Sscanf(o, "upperdir=%s", &upper); n == 1 {
			check(t, os.WriteFile(filepath.Join(upper, "file"), make([]byte, 100_000), 0o600))
		}
	}
	u := must(f.Usage(testContext(t), "container"))(t)
	if u.Size < 100_000 || u.Size > 200_000 {
		t.Errorf("a container that wrote 100,000 bytes has %v", u)
	}
}

// TestUses tells layers that containers use from others.
func TestUses(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	a := newImage(t, m, "registry.test/a:1", 1, 2).build(t, -1)
	b := newImage(t, m, "registry.test/b:1", 3, 4).build(t, -1)
	f.prepareAll(a)
	f.prepareAll(b)
	want := func(what string, want map[string]span.Use) {
		t.Helper()
		if got := f.uses(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: uses are %v, want %v", what, got, want)
		}
	}
	want("no container", map[string]span.Use{})
	must(f.Prepare(testContext(t), "container", a.top()))(t)
	must(f.View(testContext(t), "view", b.chains[0].String()))(t)
	want("two", map[string]span.Use{a.key(0): span.InUse, a.key(1): span.InUse, b.key(0): span.InUse})
	check(t, f.Remove(testContext(t), "container"))
	l, _ := f.layers.get(b.key(1))
	l.src.Load().unranged.Store(true)
	want("one, and a layer that is only to be had whole", map[string]span.Use{b.key(0): span.InUse, b.key(1): span.Keep})
}

// TestRoomy has an operation fail for want of space: spans are evicted for it.
func TestRoomy(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	f.store, _ = f.Snapshotter.ports.spans.(*span.Store)
	i := newImage(t, m, "registry.test/a:1", 1).build(t, -1)
	f.prepareAll(i)
	tries := 0
	full := func() error {
		if tries++; tries == 1 {
			return fmt.Errorf("write: %w", unix.ENOSPC)
		}
		return nil
	}
	if err := f.roomy(t.Context(), full); !errors.Is(err, unix.ENOSPC) || tries != 1 {
		t.Errorf("nothing to evict: %v, %d tries", err, tries)
	}
	data := f.fill(i, 0)
	tries = 0
	if err := f.roomy(t.Context(), full); err != nil || tries != 2 || f.Cache().Evicted == 0 || data.Complete() {
		t.Errorf("%v, %d tries, %+v", err, tries, f.Cache())
	}
	tries = 0
	check(t, data.Fill(t.Context()))
	if err := f.roomy(t.Context(), func() error { tries++; return os.ErrInvalid }); !errors.Is(err, os.ErrInvalid) || tries != 1 {
		t.Errorf("%v, %d tries", err, tries)
	}
}

// TestFits refuses a layer that would fill the disk.
func TestFits(t *testing.T) {
	look := fits(t.TempDir())
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeReg, Size: 1000}, {Typeflag: tar.TypeDir, Size: math.MaxInt64}, {Typeflag: tar.TypeLink, Size: math.MaxInt64},
	} {
		check(t, look(h, 0))
	}
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeReg, Size: math.MaxInt64}, {Typeflag: tar.TypeGNUSparse, Size: 1 << 61}, {Typeflag: tar.TypeReg, Size: -1},
	} {
		if err := look(h, 0); !errors.Is(err, errNoRoom) || errors.Is(err, unix.ENOSPC) { // the one for which roomy evicts
			t.Errorf("%d bytes: %v", h.Size, err)
		}
	}
}

// TestSweepFiles leaves behind what a crash may, and starts again.
func TestSweepFiles(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/a:1", 1).build(t, -1)
	f.prepareAll(i)
	soci := filepath.Join(f.opts.Root, "soci")
	left := []string{
		"layers/" + i.key(0) + "/.tmp-1", "condemned/.tmp-2", "profiles/.tmp-3", "profiles/some/.tmp-4", "spans/" + i.key(0) + mendSuffix + "/data",
		"layers/" + layerKey(i.diffs[0], i.diffs[0]) + "/ztoc", "spans/" + layerKey(i.diffs[0], i.diffs[0]) + "/data",
	}
	other := "spans/" + "somebody-elses" + mendSuffix
	f.restart(func() {
		for _, path := range append(left, other) {
			check(t, os.MkdirAll(filepath.Dir(filepath.Join(soci, path)), 0o700))
			check(t, os.WriteFile(filepath.Join(soci, path), nil, 0o600))
		}
	})
	for _, path := range left {
		if _, err := os.Stat(filepath.Join(soci, path)); err == nil {
			t.Errorf("%s is left", path)
		}
	}
	must(os.Stat(filepath.Join(soci, other)))(t)
	f.checkServed(i)
}

// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// halfImage is an image of layers with so many files each, of which only the first has a zTOC.
func halfImage(t testing.TB, m *memory, files ...[]ztoctest.File) *testImage {
	t.Helper()
	i := newImageOf(t, m, "registry.test/half:1", files...).build(t, -1)
	i.bindIndex(t, i.index.Layers[0])
	return i
}

// ahead returns what is unpacked ahead of the layers of i above the first.
func (f *fixture) ahead(i *testImage) *pull {
	f.t.Helper()
	f.images.mu.Lock()
	defer f.images.mu.Unlock()
	img := f.images.cached(imageKey{i.name, i.desc.Digest, ""}, time.Now())
	if img == nil || img.pull.Load() == nil {
		f.t.Fatal("nothing is unpacked ahead")
	}
	return img.pull.Load()
}

// opened counts how often each layer of m is downloaded.
func opened(m *memory) (count func(digest.Digest) int) {
	var mu sync.Mutex
	n := make(map[digest.Digest]int)
	m.setHook(func(_ context.Context, op string, d digest.Digest) error {
		if op == "open" {
			mu.Lock()
			defer mu.Unlock()
			n[d]++
		}
		return nil
	})
	return func(d digest.Digest) int {
		mu.Lock()
		defer mu.Unlock()
		return n[d]
	}
}

// mustPrepare prepares layer n of i, which must become a snapshot of this kind.
func (f *fixture) mustPrepare(i *testImage, n int, kind Kind) {
	f.t.Helper()
	if _, err := f.prepare(i, n); !errdefs.IsAlreadyExists(err) || f.last.Kind != kind {
		f.t.Fatalf("prepare layer %d: %v, %s %v, want %s", n, err, f.last.Kind, f.last.Err, kind)
	}
}

// TestUnpackAhead holds that layers without a zTOC are downloaded once, before they
// are asked for, and are what they would be otherwise.
func TestUnpackAhead(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := halfImage(t, m, testFiles(1), testFiles(2), testFiles(3), testFiles(4), testFiles(5))
	count := opened(m)
	f.mustPrepare(i, 0, Lazy)
	for _, l := range f.ahead(i).layers {
		<-l.done
		if l.dir == "" {
			t.Fatalf("layer %d was not unpacked", l.n)
		}
	}
	for n := 1; n < 5; n++ {
		f.mustPrepare(i, n, Local)
		if c := count(i.manifest.Layers[n].Digest); c != 1 {
			t.Errorf("layer %d was downloaded %d times", n, c)
		}
		want := t.TempDir()
		check(t, os.Chmod(want, 0o755))
		usage := must(unpack(t.Context(), memoryBlob{m, i.manifest.Layers[n]}, i.diffs[n], destination{dir: want}))(t)
		if got, want := settled(tree(t, f.upper(fmt.Sprint(n+1)))), settled(tree(t, want)); !slices.Equal(got, want) {
			t.Errorf("layer %d is\n%v\nwant\n%v", n, got, want)
		}
		if got := must(f.Usage(t.Context(), i.chains[n].String()))(t); got.Inodes != usage.Inodes || got.Size == 0 {
			t.Errorf("usage of layer %d is %+v, want %+v", n, got, usage)
		}
	}
	f.checkStageEmpty()
}

// settled is a tree without its whiteouts, whose time is that of unpacking.
func settled(lines []string) []string {
	return slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, " mode=20000 ") })
}

// checkStageEmpty holds that nothing is left once what was unpacked ahead has been used or given up.
func (f *fixture) checkStageEmpty() {
	f.t.Helper()
	check(f.t, f.Close()) // waits
	if n := f.entries("snapshotter", "unpack"); n != 0 {
		f.t.Errorf("%d directories are left", n)
	}
	if n := f.stage.room.Load(); n != f.opts.MaxUnpacked {
		f.t.Errorf("room for %d bytes is left of %d", n, f.opts.MaxUnpacked)
	}
}

// TestUnpackAheadParents holds that a layer which only implies a directory that is
// special below it is unpacked where it can take that over.
func TestUnpackAheadParents(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := halfImage(t, m, testFiles(1),
		[]ztoctest.File{testDir("tmp/", 0o1777, 0), testDir("home/", 0o700, 1000)},
		[]ztoctest.File{testFile("home/x"), testFile("etc/x")},
		[]ztoctest.File{testFile("etc/y")})
	count := opened(m)
	f.mustPrepare(i, 0, Lazy)
	for _, l := range f.ahead(i).layers {
		<-l.done
	}
	for n, downloads := range map[int]int{1: 1, 2: 2, 3: 1} {
		defer func() {
			if c := count(i.manifest.Layers[n].Digest); c != downloads {
				t.Errorf("layer %d was downloaded %d times, want %d", n, c, downloads)
			}
		}()
	}
	for n := 1; n < 4; n++ {
		f.mustPrepare(i, n, Local)
	}
	var st unix.Stat_t
	check(t, unix.Stat(filepath.Join(f.upper("3"), "home"), &st))
	if st.Mode&0o7777 != 0o700 || st.Uid != 1000 {
		t.Errorf("the directory is %o of %d", st.Mode&0o7777, st.Uid)
	}
	f.checkStageEmpty()
}

// TestUnpackAheadTrouble holds what becomes of layers that cannot be unpacked ahead.
func TestUnpackAheadTrouble(t *testing.T) {
	for _, c := range []struct {
		name  string
		opts  Options
		files []ztoctest.File // of layer 1
		spoil func(i *testImage)
		kind  Kind
	}{
		{name: "no room", opts: Options{MaxUnpacked: 1 << 10}, kind: Local},
		{name: "a path through a link", kind: Local, files: []ztoctest.File{
			testDir("a/", 0o755, 0), {Header: linkHeader("b", "a")}, testFile("b/x")}},
		{name: "corrupt", kind: Fallback, spoil: func(i *testImage) {
			i.m.blobs[i.manifest.Layers[1].Digest] = i.m.blobs[i.manifest.Layers[2].Digest]
		}},
		{name: "missing", kind: Fallback, spoil: func(i *testImage) {
			delete(i.m.blobs, i.manifest.Layers[1].Digest)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMemory()
			f := newFixture(t, m, c.opts)
			if c.files == nil {
				c.files = testFiles(2)
			}
			i := halfImage(t, m, testFiles(1), c.files, testFiles(3))
			if c.spoil != nil {
				c.spoil(i)
			}
			f.mustPrepare(i, 0, Lazy)
			p := f.ahead(i)
			<-p.layers[0].done
			if p.layers[0].dir != "" {
				t.Error("the layer was unpacked ahead")
			}
			_, err := f.prepare(i, 1)
			if f.last.Kind != c.kind || errdefs.IsAlreadyExists(err) != (c.kind == Local) {
				t.Errorf("Prepare: %v, %s, want %s", err, f.last.Kind, c.kind)
			}
			if c.kind == Fallback && !p.over() {
				t.Error("containerd unpacks the rest, and so does the daemon")
			}
			f.checkStageEmpty()
		})
	}
}

// TestUnpackAheadGivenUp holds that nothing stays of a pull that does not go on, nor
// of a daemon that died.
func TestUnpackAheadGivenUp(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	expire := make(chan time.Time)
	f.stage.after = func(time.Duration) <-chan time.Time { return expire }
	i := halfImage(t, m, testFiles(1), testFiles(2), testFiles(3))
	f.mustPrepare(i, 0, Lazy)
	p := f.ahead(i)
	for _, l := range p.layers {
		<-l.done
	}
	if n := f.entries("snapshotter", "unpack"); n != 2 {
		t.Fatalf("%d layers are unpacked", n)
	}
	expire <- time.Time{}
	<-p.ended
	f.checkStageEmpty()
	f.restart(func() {
		check(t, os.MkdirAll(filepath.Join(f.opts.Root, "snapshotter", "unpack", "1", "x"), 0o700))
	})
	if n := f.entries("snapshotter", "unpack"); n != 0 {
		t.Errorf("%d directories of a dead daemon are left", n)
	}
	f.mustPrepare(i, 1, Local)
	f.mustPrepare(i, 2, Local)
}

// TestUnpackAheadExpire holds that an image is kept for as long as it is being pulled, and that the
// pull ends when it is not kept.
func TestUnpackAheadExpire(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := halfImage(t, m, testFiles(1), testFiles(2))
	f.mustPrepare(i, 0, Lazy)
	p := f.ahead(i)
	key, late := imageKey{i.name, i.desc.Digest, ""}, time.Now().Add(2*imageTTL)
	s := f.images
	s.mu.Lock()
	img := s.cached(key, late)
	if img == nil {
		t.Fatal("forgotten while it is being pulled")
	}
	for range maxCachedImages {
		s.put(imageKey{}, &image{expire: late})
	}
	s.mu.Unlock()
	if !p.over() {
		t.Error("the pull of an image that is not kept goes on")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(key, img)
	if s.cached(key, late) != nil {
		t.Error("kept although nobody pulls it")
	}
}

// TestUnpackAheadSlow holds that a layer which takes long to download goes on being so while its
// Prepare waits for it.
func TestUnpackAheadSlow(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	expire := make(chan time.Time)
	f.stage.after = func(time.Duration) <-chan time.Time { return expire }
	i := halfImage(t, m, testFiles(1), testFiles(2))
	block, opened := make(chan struct{}), make(chan struct{}, 10)
	m.setHook(func(ctx context.Context, op string, _ digest.Digest) error {
		if op == "open" {
			opened <- struct{}{}
			select {
			case <-block:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	f.mustPrepare(i, 0, Lazy)
	p := f.ahead(i)
	var wg sync.WaitGroup
	<-opened
	wg.Go(func() {
		if _, err := f.prepare(i, 1); !errdefs.IsAlreadyExists(err) {
			t.Errorf("Prepare: %v", err)
		}
	})
	for p.takers.Load() == 0 {
		runtime.Gosched()
	}
	for range 3 {
		expire <- time.Time{}
	}
	if p.over() {
		t.Error("given up while a Prepare waits")
	}
	close(block)
	wg.Wait()
	if n := len(opened); n != 0 {
		t.Errorf("the layer was downloaded %d times more", n)
	}
	f.checkStageEmpty()
}

// TestUnpackAheadOrder holds that layers are begun in the order in which they will be asked for.
func TestUnpackAheadOrder(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{Unpacks: 1})
	const layers = 8
	files := make([][]ztoctest.File, layers+1)
	for n := range files {
		files[n] = []ztoctest.File{testFile(fmt.Sprint(n))}
	}
	i := halfImage(t, m, files...)
	opened := make(chan digest.Digest, layers)
	m.setHook(func(_ context.Context, op string, d digest.Digest) error {
		if op == "open" {
			opened <- d
		}
		return nil
	})
	f.mustPrepare(i, 0, Lazy)
	for n := 1; n <= layers; n++ {
		if d := <-opened; d != i.manifest.Layers[n].Digest {
			t.Fatalf("layer %d is not the next one begun", n)
		}
	}
}

// TestUnpackAheadLate holds that a Prepare does not wait for a layer that others keep waiting.
func TestUnpackAheadLate(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{Unpacks: 1})
	i := halfImage(t, m, testFiles(1), testFiles(2), testFiles(3))
	block, blocked := make(chan struct{}), make(chan struct{}, 2)
	m.setHook(func(ctx context.Context, op string, _ digest.Digest) error {
		if op == "open" {
			blocked <- struct{}{}
			select {
			case <-block:
			case <-ctx.Done():
			}
		}
		return nil
	})
	f.mustPrepare(i, 0, Lazy)
	<-blocked
	p := f.ahead(i)
	n := slices.IndexFunc(p.layers, func(l *staged) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return !l.begun
	})
	if p.take(t.Context(), p.layers[n].n) != nil {
		t.Error("a layer that was not unpacked was taken")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if p.take(ctx, p.layers[1-n].n) != nil {
		t.Error("a layer on its way was taken")
	}
	close(block)
	f.mustPrepare(i, 1, Local)
	f.mustPrepare(i, 2, Local)
	f.checkStageEmpty()
}

func linkHeader(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, ModTime: time.Unix(1600000000, 0)}
}

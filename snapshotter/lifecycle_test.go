// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// prepareAll prepares all layers of i, which must all become snapshots.
func (f *fixture) prepareAll(i *testImage) {
	f.t.Helper()
	for n := range i.chains {
		if _, err := f.prepare(i, n); !errdefs.IsAlreadyExists(err) {
			f.t.Fatalf("prepare layer %d of %s: %v, want already exists", n, i.name, err)
		}
	}
}

// top is the name of the highest snapshot of i.
func (i *testImage) top() string { return i.chains[len(i.chains)-1].String() }

// layerName returns what is served as layer n of i: the fake layer's name.
func (f *fixture) layerName(i *testImage, n int) (string, error) {
	info, err := f.Stat(f.t.Context(), i.chains[n].String())
	if err != nil {
		return "", err
	}
	var id string
	err = f.ms.WithTransaction(f.t.Context(), false, func(ctx context.Context) (err error) {
		id, _, _, err = storage.GetInfo(ctx, info.Name)
		return err
	})
	if err != nil {
		return "", err
	}
	p, err := os.ReadFile(filepath.Join(f.upper(id), "name"))
	return string(p), err
}

func (i *testImage) key(n int) string {
	z, _ := i.index.ZTOC(i.manifest.Layers[n].Digest)
	return layerKey(i.manifest.Layers[n].Digest, z.Digest)
}

// checkServed holds that every layer of i is what its link leads to, and that containers start.
func (f *fixture) checkServed(i *testImage) {
	f.t.Helper()
	for n := range i.chains {
		if got, err := f.layerName(i, n); err != nil || got != i.key(n) {
			f.t.Fatalf("layer %d of %s is %q, %v, want %q", n, i.name, got, err, i.key(n))
		}
	}
	key := "container-" + digest.FromString(f.t.Name()).Encoded()[:8]
	m := must(f.Prepare(testContext(f.t), key, i.top()))(f.t)
	if m[0].Type != "overlay" || strings.Count(strings.Join(m[0].Options, ","), "/snapshots/") != len(i.chains)+2 {
		f.t.Errorf("mounts are %v", m)
	}
	must(f.View(testContext(f.t), key+"-view", i.top()))(f.t)
	must(f.Mounts(testContext(f.t), key))(f.t)
	check(f.t, f.Remove(testContext(f.t), key))
	check(f.t, f.Remove(testContext(f.t), key+"-view"))
}

// TestRemove holds that with its last snapshot a layer's disk space comes back,
// and that removal never reaches into the mount.
func TestRemove(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	a := newImage(t, m, "registry.test/a:1", 1, 2).build(t, -1)
	b := newImage(t, m, "registry.test/b:1", 1, 3).build(t, -1)
	f.prepareAll(a)
	f.prepareAll(b) // shares the first snapshot
	ctx := testContext(t)
	if err := f.Remove(ctx, a.chains[0].String()); !errdefs.IsFailedPrecondition(err) {
		t.Fatalf("remove a parent: %v", err)
	}
	check(t, f.Remove(ctx, a.top()))
	f.checkServed(b)
	if f.mount.names() != 2 || f.entries("soci", "layers") != 2 || f.entries("soci", "spans") != 2 {
		t.Errorf("%d layers attached, %d states, %d spans, want 2", f.mount.names(), f.entries("soci", "layers"), f.entries("soci", "spans"))
	}
	// Cleanup removes what is left of the snapshot, but follows no link.
	check(t, f.Cleanup(ctx))
	f.checkServed(b)
	check(t, f.Remove(ctx, b.top()))
	check(t, f.Remove(ctx, b.chains[0].String()))
	check(t, f.Cleanup(ctx))
	for _, dir := range [][]string{{"soci", "layers"}, {"soci", "spans"}, {"snapshotter", "snapshots"}} {
		if n := f.entries(dir...); n != 0 {
			t.Errorf("%d entries left in %v", n, dir)
		}
	}
	if err := f.Remove(ctx, b.top()); !errdefs.IsNotFound(err) {
		t.Errorf("second Remove: %v", err)
	}
}

// TestSharedLayer holds that a layer is attached once for several snapshots and
// stays until the last of them goes.
func TestSharedLayer(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	a := newImage(t, m, "registry.test/a:1", 1, 2).build(t, -1)
	b := newImage(t, m, "registry.test/b:1", 3, 2).build(t, -1)
	f.prepareAll(a)
	f.prepareAll(b)
	if n := f.mount.names(); n != 3 {
		t.Errorf("%d layers are attached, want 3", n)
	}
	l, ok := f.layers.get(a.key(1))
	if !ok || fmt.Sprint(l.state.Images) != "[registry.test/b:1 registry.test/a:1]" {
		t.Errorf("images of the shared layer: %v", l.state.Images)
	}
	check(t, f.Remove(testContext(t), a.top()))
	f.checkServed(b)
	f.restart(func() {})
	f.checkServed(b)
}

// TestLookupOnce holds that an image is looked up once for all its layers, and
// for all who ask at the same time.
func TestLookupOnce(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/app:1", 1, 2, 3).build(t, -1)
	m.forget()
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for n := range errs {
		wg.Go(func() {
			_, errs[n] = f.Prepare(testContext(t), fmt.Sprint("key", n), "", snapshots.WithLabels(i.labels(0)))
		})
	}
	wg.Wait()
	for _, err := range errs {
		if !errdefs.IsAlreadyExists(err) {
			t.Errorf("concurrent Prepare: %v", err)
		}
	}
	f.prepareAll(i)
	for d, n := range m.fetched() {
		if n > 1 && d != i.index.Layers[0].Digest {
			t.Errorf("%s was fetched %d times", d, n)
		}
	}
	if n := f.entries("snapshotter", "snapshots"); n != 3 {
		t.Errorf("%d snapshot directories, want 3", n)
	}
	f.checkServed(i)
}

// TestErrorsNotCached holds that the next Prepare asks again.
func TestErrorsNotCached(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/app:1", 1).build(t, -1)
	failOn(m, "resolve", i.desc.Digest)
	must(f.Prepare(testContext(t), "first", "", snapshots.WithLabels(i.labels(0))))(t)
	failOn(m, "", "")
	f.prepareAll(i)
}

// TestCancelledWaiter holds that a caller who leaves fails neither the others
// nor, with an answer made of his leaving, himself.
func TestCancelledWaiter(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/app:1", 1).build(t, -1)
	asked, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	m.setHook(func(ctx context.Context, op string, _ digest.Digest) error {
		if op == "resolve" {
			once.Do(func() { close(asked) })
			select {
			case <-goOn:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	ctx, cancel := context.WithCancel(testContext(t))
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := f.Prepare(ctx, "first", "", snapshots.WithLabels(i.labels(0)))
		first <- err
	}()
	<-asked
	go func() {
		_, err := f.Prepare(testContext(t), "second", "", snapshots.WithLabels(i.labels(0)))
		second <- err
	}()
	key := imageKey{i.name, i.desc.Digest, ""}
	for waiters := 0; waiters < 2; {
		f.images.mu.Lock()
		waiters = f.images.flights[key].waiters
		f.images.mu.Unlock()
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled Prepare: %v", err)
	}
	close(goOn)
	if err := <-second; !errdefs.IsAlreadyExists(err) {
		t.Errorf("other Prepare: %v", err)
	}
	if _, err := f.Stat(t.Context(), "first"); !errdefs.IsNotFound(err) {
		t.Errorf("Stat of the cancelled key: %v", err)
	}
}

// TestOtherParent holds that a chain ID which another namespace's snapshot has,
// above another parent, does not stand in the way.
func TestOtherParent(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/app:1", 1, 2).build(t, -1)
	f.prepareAll(i)
	ctx := testContext(t)
	must(f.Prepare(ctx, "unpack", ""))(t)
	check(t, f.Commit(ctx, "other/1/"+i.chains[0].String(), "unpack"))
	_, err := f.Prepare(ctx, "key", "other/1/"+i.chains[0].String(), snapshots.WithLabels(i.labels(1)))
	if !errdefs.IsAlreadyExists(err) {
		t.Fatalf("Prepare: %v", err)
	}
	found := 0
	check(t, f.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		found++
		return nil
	}, fmt.Sprintf(`labels.%q==%s,parent==%q`, snapshots.LabelSnapshotRef, i.chains[1], "other/1/"+i.chains[0].String())))
	if found != 1 {
		t.Errorf("containerd would find %d snapshots, want 1", found)
	}
}

// TestRestart holds that layers come back from disk alone, also with their
// links lost or leading elsewhere.
func TestRestart(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/app:1", 1, 2).build(t, -1)
	f.prepareAll(i)
	offline := func() {
		m.setHook(func(context.Context, string, digest.Digest) error { return errInjected })
	}
	f.restart(offline)
	f.checkServed(i)
	f.restart(func() {
		check(t, os.Remove(f.upper("1")))
		check(t, os.Mkdir(f.upper("1"), 0o755))
		check(t, os.Remove(f.upper("2")))
		check(t, os.Symlink("/nowhere", f.upper("2")))
	})
	f.checkServed(i)
}

// TestCrash holds what a start makes of each step at which a Prepare may have ended.
func TestCrash(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/app:1", 1, 2).build(t, -1)
	ctx := testContext(t)
	must(f.Prepare(ctx, "prepared", ""))(t)
	must(f.Prepare(ctx, "linked", ""))(t)
	orphan := strings.Repeat("ab", 32) + "-" + strings.Repeat("cd", 32)
	check(t, f.layers.states.save(layerState{Version: 1, Layer: i.manifest.Layers[0].Digest, Size: 1, ZTOC: i.index.Layers[0].Digest, Images: []string{"x"}}, []byte("x")))
	f.restart(func() {
		check(t, os.MkdirAll(filepath.Join(f.opts.Root, "soci", "layers", orphan), 0o700))      // state not finished
		check(t, os.MkdirAll(filepath.Join(spansDir(f.opts.Root), orphan), 0o700))              // layer removed, spans not
		check(t, os.Symlink("x", f.upper("1")+".link"))                                         // link not exchanged
		check(t, os.Remove(f.upper("2")))                                                       // linked, not committed
		check(t, os.Symlink("../../mnt/"+i.key(0), f.upper("2")))                               //
		check(t, os.MkdirAll(filepath.Join(f.opts.Root, "snapshotter/snapshots/77/fs"), 0o700)) // removed, not cleaned up
	})
	for _, id := range []string{"1", "2"} {
		if isLink(f.upper(id)) {
			t.Errorf("active snapshot %s is still a link", id)
		}
	}
	must(f.Mounts(ctx, "linked"))(t)
	if n := f.entries("soci", "layers") + f.entries("soci", "spans"); n != 0 {
		t.Errorf("%d orphans are left", n)
	}
	f.prepareAll(i)
	f.checkServed(i)
	check(t, f.Cleanup(ctx))
	if n := f.entries("snapshotter", "snapshots"); n != 4 {
		t.Errorf("%d snapshot directories, want 4", n)
	}
}

// TestUnavailable holds that a layer whose state is lost stops neither the
// start nor other images, that its users are told, and that it is repaired as
// soon as the registry answers.
func TestUnavailable(t *testing.T) {
	for _, c := range []struct {
		name string
		lose func(f *fixture, i *testImage) error
	}{
		{"state lost", func(f *fixture, i *testImage) error { return f.layers.states.remove(i.key(0)) }},
		{"zTOC corrupt", func(f *fixture, i *testImage) error {
			return os.WriteFile(f.layers.states.path(i.key(0), "ztoc"), []byte("x"), 0o600)
		}},
		{"state corrupt", func(f *fixture, i *testImage) error {
			path := f.layers.states.path(i.key(0), stateFile)
			return errors.Join(os.WriteFile(path, []byte("{"), 0o600), os.Remove(path+copySuffix))
		}},
		{"another daemon's snapshot", func(f *fixture, i *testImage) error {
			// The incumbent's: no state, no label of ours, a directory for a mount point.
			return errors.Join(f.layers.states.remove(i.key(0)), os.Remove(f.upper("1")), os.Mkdir(f.upper("1"), 0o755))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMemory()
			f := newFixture(t, m, Options{})
			i := newImage(t, m, "registry.test/app:1", 1, 2).build(t, -1)
			other := newImage(t, m, "registry.test/other:1", 3).build(t, -1)
			f.prepareAll(i)
			f.prepareAll(other)
			ctx := testContext(t)
			must(f.Prepare(ctx, "running", i.top()))(t)
			if c.name == "another daemon's snapshot" {
				info := must(f.Stat(ctx, i.chains[0].String()))(t)
				delete(info.Labels, labelZTOC)
				must(f.Update(ctx, info, "labels"))(t)
			}
			f.restart(func() {
				check(t, c.lose(f, i))
				m.setHook(func(context.Context, string, digest.Digest) error { return errInjected })
			})
			f.checkServed(other)
			_, prepare := f.Prepare(ctx, "new", i.top())
			_, view := f.View(ctx, "view", i.top())
			_, mounts := f.Mounts(ctx, "running")
			for _, err := range []error{prepare, view, mounts} {
				if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), i.manifest.Layers[0].Digest.String()) {
					t.Errorf("error is %v, want unavailable and the layer's digest", err)
				}
			}
			failOn(m, "", "")
			must(f.Mounts(ctx, "running"))(t) // repairs
			f.checkServed(i)
			f.restart(func() { m.setHook(func(context.Context, string, digest.Digest) error { return errInjected }) })
			f.checkServed(i)
			check(t, f.Remove(ctx, "running"))
			check(t, f.Remove(ctx, i.top()))
			check(t, f.Remove(ctx, i.chains[0].String()))
			if n := f.entries("soci", "layers"); n != 1 {
				t.Errorf("%d layer states left, want that of the other image", n)
			}
		})
	}
}

// TestSecondDaemon holds that two daemons do not share a root.
func TestSecondDaemon(t *testing.T) {
	f := newFixture(t, newMemory(), Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if ms, err := openMetadata(ctx, f.opts.Root, time.Millisecond); err == nil {
		t.Fatal("metadata was opened twice", ms.Close())
	} else if !strings.Contains(err.Error(), "another daemon") {
		t.Errorf("error is %v", err)
	}
}

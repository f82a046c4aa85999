// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/fs"
	"github.com/seekoci/seekoci/fs/span"
)

// TestRepairUntil has a daemon start with a layer whose zTOC is lost and a registry that
// is away: requests are told to wait for it, in its slot, and it is tried until it works.
func TestRepairUntil(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/app:1", 1, 2).build(t, -1)
	f.prepareAll(i)
	slots := f.slots(i)
	fakes := f.ports
	var mu sync.Mutex
	expected := map[string]uint32{}
	f.ports = func() ports {
		p := fakes()
		p.expect = func(name string, slot uint32) error {
			mu.Lock()
			defer mu.Unlock()
			expected[name] = slot
			return nil
		}
		return p
	}
	f.restart(func() {
		check(t, os.WriteFile(f.layers.states.path(i.key(0), "ztoc"), []byte("x"), 0o600))
		m.setHook(func(context.Context, string, digest.Digest) error { return errInjected })
	})
	if len(expected) != 1 || expected[i.key(0)] != slots[0] {
		t.Errorf("expected are %v, want %s in %d", expected, i.key(0), slots[0])
	}
	f.mu.Lock()
	r := f.remote[i.chains[0].String()]
	f.mu.Unlock()
	var waits []time.Duration
	f.repairUntil(t.Context(), r, func(d time.Duration) <-chan time.Time {
		if waits = append(waits, d); len(waits) == 9 {
			failOn(m, "", "")
		}
		now := make(chan time.Time, 1)
		now <- time.Time{}
		return now
	})
	if len(waits) != 9 || waits[0] != repairMin || waits[1] != 2*repairMin || waits[8] != repairMax {
		t.Errorf("waits are %v", waits)
	}
	f.checkServed(i)
	if now := f.slots(i); now[0] != slots[0] {
		t.Errorf("slots are %v, were %v", now, slots)
	}

	// A stop ends it.
	f.restart(func() {
		check(t, os.WriteFile(f.layers.states.path(i.key(0), "ztoc"), []byte("x"), 0o600))
		m.setHook(func(context.Context, string, digest.Digest) error { return errInjected })
	})
	f.mu.Lock()
	r = f.remote[i.chains[0].String()]
	f.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	f.repairUntil(ctx, r, func(time.Duration) <-chan time.Time { cancel(); return nil })
	failOn(m, "", "")
}

// panicMount is a mount to which no layer of a name can be attached without a panic.
type panicMount struct {
	mounter
	name string
}

func (p panicMount) Attach(name string, slot uint32, toc fs.TOC, data *span.Layer) (fs.Attached, error) {
	if strings.HasPrefix(name, p.name) {
		panic("a layer that cannot be")
	}
	return p.mounter.Attach(name, slot, toc, data)
}

// TestRestorePanics has the restoring of one layer panic: the others are served.
func TestRestorePanics(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/app:1", 1).build(t, -1)
	other := newImage(t, m, "registry.test/other:1", 3).build(t, -1)
	f.prepareAll(i)
	f.prepareAll(other)
	fakes := f.ports
	f.ports = func() ports {
		p := fakes()
		p.mount = panicMount{p.mount, i.key(0)}
		return p
	}
	f.restart(func() {})
	if n := len(f.Layers()); n != 1 {
		t.Errorf("%d layers are served, want 1", n)
	}
	f.ports = fakes
	f.restart(func() {})
	f.checkServed(i)
	f.checkServed(other)
}

// TestFillPanics has the completion of one layer panic: it is tried again, and the others
// are completed.
func TestFillPanics(t *testing.T) {
	s, told, clock := newFills(t, Background{})
	tries := 0
	s.add(&fill{diffID: digest.FromString("x"), check: func(context.Context) error {
		if tries++; tries == 1 {
			panic("a TOC that cannot be")
		}
		return nil
	}, data: &fakeLayer{sound, "x"}})
	if got := <-told; got.Result != Failed || !errors.Is(got.Err, errPanic) || !strings.Contains(got.Err.Error(), "TestFillPanics") {
		t.Errorf("completion %+v", got)
	}
	s.add(&fill{data: &fakeLayer{sound, "y"}})
	if got := <-told; got.Result != Unverifiable {
		t.Errorf("completion of another %+v", got)
	}
	clock <- time.Time{}
	if got := <-told; got.Result != Verified {
		t.Errorf("completion %+v", got)
	}
}

// TestLookupPanics has the lookup of an image panic, at each of its steps: containerd is
// told to unpack the layer, and the next lookup is as if there had been none.
func TestLookupPanics(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/app:1", 1).build(t, -1)
	z, _ := i.index.ZTOC(i.manifest.Layers[0].Digest)
	for _, at := range []digest.Digest{i.desc.Digest, i.manifest.Config.Digest} {
		m.setHook(func(_ context.Context, _ string, d digest.Digest) error {
			if d == at {
				panic("an image that cannot be")
			}
			return nil
		})
		if _, err := f.prepare(i, 0); errdefs.IsAlreadyExists(err) {
			t.Errorf("%s: prepared: %v", at, err)
			break
		}
		check(t, f.Remove(testContext(t), "extract-"+i.name+" "+i.chains[0].String()))
		check(t, f.Close()) // what was found is forgotten
		f.start()
	}
	// What is fetched ahead is fetched again.
	var once sync.Once
	m.setHook(func(_ context.Context, _ string, d digest.Digest) error {
		if d == z.Digest {
			once.Do(func() { panic("a zTOC that cannot be") })
		}
		return nil
	})
	f.prepareAll(i)
	f.checkServed(i)
}

// TestCondemnedRestart starts with a layer that is condemned: nobody waits for it, and it is not
// tried to be repaired for ever.
func TestCondemnedRestart(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/app:1", 1).build(t, -1)
	f.prepareAll(i)
	fakes := f.ports
	expected := 0
	f.ports = func() ports {
		p := fakes()
		p.expect = func(string, uint32) error { expected++; return nil }
		return p
	}
	f.restart(func() { check(t, f.layers.states.condemn(i.key(0))) })
	if expected != 0 {
		t.Error("users are to wait for a condemned layer")
	}
	f.mu.Lock()
	r := f.remote[i.top()]
	f.mu.Unlock()
	f.repairUntil(t.Context(), r, func(time.Duration) <-chan time.Time {
		t.Fatal("a condemned layer is repaired again")
		return nil
	})
}

// TestRemoveDuringRepair removes a snapshot while the registry keeps its repair waiting: the
// snapshot is gone at once, and its layer when the repair has ended.
func TestRemoveDuringRepair(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/app:1", 1).build(t, -1)
	f.prepareAll(i)
	asked, answer := make(chan struct{}, 100), make(chan struct{})
	f.restart(func() {
		check(t, os.WriteFile(f.layers.states.path(i.key(0), "ztoc"), []byte("x"), 0o600))
		m.setHook(func(context.Context, string, digest.Digest) error {
			asked <- struct{}{}
			<-answer
			return nil
		})
	})
	f.mu.Lock()
	r := f.remote[i.top()]
	f.mu.Unlock()
	repaired := make(chan error, 1)
	go func() { repaired <- f.repair(t.Context(), r) }()
	<-asked
	check(t, f.Remove(testContext(t), i.top()))
	select {
	case err := <-repaired:
		t.Errorf("Remove has waited for the repair, which says %v", err)
	default:
	}
	close(answer)
	check(t, <-repaired)
	f.tasks.close() // waits
	if n := f.entries("soci", "layers"); n != 0 || f.mount.names() != 0 {
		t.Errorf("%d layers are on disk and %d attached", n, f.mount.names())
	}
}

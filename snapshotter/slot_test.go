// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"os"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// slots returns the slots of the image's layers, as their states say.
func (f *fixture) slots(i *testImage) []uint32 {
	f.t.Helper()
	var all []uint32
	for n := range i.chains {
		st := must(f.layers.states.loadState(i.key(n)))(f.t)
		if l, ok := f.layers.get(i.key(n)); !ok || l.state.Slot != st.Slot {
			f.t.Errorf("layer %d is not in slot %d", n, st.Slot)
		}
		all = append(all, st.Slot)
	}
	return all
}

// TestSlots holds that a layer stays in its slot, by which those who use it know it,
// whatever becomes of the snapshotter and of what is on disk.
func TestSlots(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/app:1", 1, 2).build(t, -1)
	f.prepareAll(i)
	was := f.slots(i)
	if was[0] == 0 || was[1] == 0 || was[0] == was[1] {
		t.Errorf("slots are %v", was)
	}
	same := func(what string) {
		t.Helper()
		if now := f.slots(i); now[0] != was[0] || now[1] != was[1] {
			t.Errorf("%s: slots are %v, were %v", what, now, was)
		}
	}
	f.restart(func() {})
	same("restart")
	f.restart(func() {
		check(t, os.WriteFile(f.layers.states.path(i.key(0), "ztoc"), []byte("x"), 0o600))
	})
	f.repairAll()
	l, _ := f.layers.get(i.key(0))
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.After(20 * time.Second); !l.attached(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("not repaired")
		}
	}
	f.checkServed(i)
	same("repaired after a restart")

	// The state of a version that did not note it.
	f.restart(func() {
		st := must(f.layers.states.loadState(i.key(1)))(t)
		st.Slot = 0
		check(t, f.layers.states.save(st, nil))
	})
	if was[1] = f.slots(i)[1]; was[1] == 0 {
		t.Error("no slot noted")
	}
	f.restart(func() {})
	same("restart after an update")
}

// TestSaveFails has the state not be saved: the layer is not served, as the next daemon
// would not know of it.
func TestSaveFails(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/app:1", 1).build(t, -1)
	dir := string(f.layers.states)
	check(t, os.Remove(dir))
	check(t, os.WriteFile(dir, nil, 0o600)) // no directory
	if _, err := f.prepare(i, 0); !errdefs.IsAlreadyExists(err) {
		t.Errorf("prepare: %v, want an unpacked snapshot", err)
	}
	if n := f.mount.names(); n != 0 || f.last.Reason != ReasonMount {
		t.Errorf("%d layers attached, decision %+v", n, f.last)
	}
}

// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"testing"
	"time"
)

// TestStateSum changes every bit of a layer's state, and cuts it off everywhere: none is believed. Another slot
// would be another layer's bytes to those who use it.
func TestStateSum(t *testing.T) {
	want := layerState{Version: 1, Layer: fuzzDigest, ZTOC: fuzzDigest, DiffID: fuzzDigest, Size: 5, Images: []string{"a/b:1"}, Slot: 7}
	good := must(want.marshal())(t)
	if got := must(unmarshalState(good))(t); !reflect.DeepEqual(got, want) {
		t.Errorf("state %+v, want %+v", got, want)
	}
	for n := range good {
		for bit := range 8 {
			p := bytes.Clone(good)
			p[n] ^= 1 << bit
			if s, err := unmarshalState(p); err == nil {
				t.Errorf("bit %d of byte %d: %s is read as %+v", bit, n, p, s)
			}
		}
		if s, err := unmarshalState(good[:n]); err == nil {
			t.Errorf("%s is read as %+v", good[:n], s)
		}
	}
}

// TestStateVersions reads what other versions have written: without a sum, or with a sum and more.
func TestStateVersions(t *testing.T) {
	state := fmt.Sprintf(`{"version":1,"layer":%q,"size":5,"ztoc":%q,"images":["a"],"slot":7`, fuzzDigest, fuzzDigest)
	later := state + `,"new":[1]`
	for text, ok := range map[string]bool{
		state + `}`:                                  true,
		later + sumOf([]byte(later)):                 true,
		later + `}`:                                  false, // the name of the sum may be what is damaged
		state + `}}`:                                 false,
		state + `}` + sumOf([]byte(state)):           false,
		state + sumOf([]byte(later)):                 false,
		state + sumOf([]byte(state)) + "\n":          false,
		string(append([]byte(state), 0)) + `"sum":"`: false,
	} {
		s, err := unmarshalState([]byte(text))
		if (err == nil) != ok || ok && (s.Slot != 7 || s.validate(s.key()) != nil) {
			t.Errorf("%s: %+v, %v", text, s, err)
		}
	}
}

// TestStateTwice damages one of the two states of a layer after the other: it stays in its slot, and is had from
// nowhere else.
func TestStateTwice(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/app:1", 1).build(t, -1)
	f.prepareAll(i)
	was := f.slots(i)[0]
	m.forget()
	for _, file := range []string{stateFile, stateCopy, stateFile} {
		for _, d := range damages {
			path := f.layers.states.path(i.key(0), file)
			f.restart(func() { damage(t, d.do, path) })
			f.checkServed(i)
			if now := f.slots(i)[0]; now != was {
				t.Errorf("%s, %s: slot %d, was %d", file, d.name, now, was)
			}
		}
	}
	if n := len(m.fetched()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// TestCopyAtStart holds that a daemon that is killed again and again has a copy of its metadata, too.
func TestCopyAtStart(t *testing.T) {
	f := newFixture(t, newMemory(), Options{})
	must(f.Prepare(testContext(t), "a", ""))(t)
	c := copies{ms: f.ms, path: t.TempDir() + "/" + metadataFile + copySuffix}
	db := c.path[:len(c.path)-len(copySuffix)]
	late := func(want bool) {
		t.Helper()
		if c.late() != want {
			t.Errorf("the copy is late: %t", !want)
		}
	}
	late(false) // there is nothing to copy
	check(t, os.WriteFile(db, nil, 0o600))
	late(true)
	check(t, c.copy(t.Context()))
	check(t, os.Chtimes(db, time.Time{}, time.Now().Add(-time.Hour)))
	late(false)
	check(t, os.Chtimes(db, time.Time{}, time.Now().Add(time.Hour)))
	late(true)
}

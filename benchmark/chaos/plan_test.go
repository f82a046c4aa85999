// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"testing"
)

func steps(seed uint64, l lane, kinds []kind, n int) []step {
	s := newSchedule(options{seed: seed, kinds: kinds}, l)
	all := make([]step, n)
	for i := range all {
		all[i] = s.next()
	}
	return all
}

// TestScheduleReplays: a schedule is a function of its seed, its lane and the kinds.
func TestScheduleReplays(t *testing.T) {
	for _, l := range []lane{nodeLane, registryLane, userLane} {
		a := steps(7, l, allKinds(), 500)
		if b := steps(7, l, allKinds(), 500); !slices.Equal(a, b) {
			t.Errorf("%s: two schedules of one seed differ", l)
		}
		if b := steps(8, l, allKinds(), 500); slices.Equal(a, b) {
			t.Errorf("%s: two seeds give one schedule", l)
		}
		seen := make(map[kind]int)
		for _, s := range a {
			seen[s.kind]++
			if s.pause <= 0 || s.hold < 0 || s.odds <= 0 || s.odds > 1 {
				t.Errorf("%s: %v", l, s)
			}
		}
		for _, sh := range shares() {
			switch {
			case sh.lane != l && seen[sh.kind] > 0:
				t.Errorf("%s: there is %s of %s", l, sh.kind, sh.lane)
			case sh.lane == l && seen[sh.kind] == 0:
				t.Errorf("%s: there is no %s", l, sh.kind)
			}
		}
	}
	if slices.Equal(steps(7, nodeLane, allKinds(), 5), steps(7, userLane, allKinds(), 5)) {
		t.Error("two lanes have one schedule")
	}
}

// TestScheduleOften: what is to come often does, and the rest goes on.
func TestScheduleOften(t *testing.T) {
	count := func(often kind) map[kind]int {
		s, n := newSchedule(options{seed: 7, kinds: allKinds(), often: often}, nodeLane), make(map[kind]int)
		for range 5000 {
			n[s.next().kind]++
		}
		return n
	}
	seldom, often := count(""), count(killContainerd)
	if often[killContainerd] < 3*seldom[killContainerd] || len(often) != len(seldom) {
		t.Errorf("%v, without %v", often, seldom)
	}
}

// TestSchedulePinned holds the beginning of one: a seed that somebody wrote down yesterday is to mean the same today.
func TestSchedulePinned(t *testing.T) {
	want := []string{"0 7.792s kill 5.2ms 0.30 5b36763e6c8902da"}
	for i, s := range steps(1, nodeLane, []kind{killDaemon, termDaemon}, len(want)) {
		if s.String() != want[i] {
			t.Errorf("step %q, want %q", s, want[i])
		}
	}
}

func TestParseKinds(t *testing.T) {
	all := allKinds()
	for _, tt := range []struct {
		list string
		want []kind
	}{
		{"", all},
		{"kill", []kind{killDaemon}},
		{"kill,503", []kind{killDaemon, unavailable}},
		{"-kill", slices.DeleteFunc(slices.Clone(all), func(k kind) bool { return k == killDaemon })},
	} {
		if got, err := parseKinds(tt.list); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%q: %v, %v", tt.list, got, err)
		}
	}
	for _, bad := range []string{"nonsense", "kill,", "-nonsense", "-" + string(all[0])} {
		got, err := parseKinds(bad)
		if bad[0] == '-' && bad[1] != 'n' {
			if err != nil || slices.Contains(got, all[0]) {
				t.Errorf("%q: %v, %v", bad, got, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
	if got := lanes([]kind{killDaemon, unavailable}); !slices.Equal(got, []lane{nodeLane, registryLane}) {
		t.Errorf("lanes %v", got)
	}
}

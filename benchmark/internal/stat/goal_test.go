// SPDX-License-Identifier: Apache-2.0

package stat_test

import (
	"strings"
	"testing"

	"github.com/seekoci/seekoci/benchmark/internal/stat"
)

func TestReached(t *testing.T) {
	for _, tt := range []struct {
		got  stat.Series
		want stat.Want
		say  string
	}{
		{stat.Series{1.1}, stat.Want{Floor: 0.9, Goal: 1}, "goal"},
		{stat.Series{0.95}, stat.Want{Floor: 0.9, Goal: 1}, "floor"},
		{stat.Series{0.8}, stat.Want{Floor: 0.9, Goal: 1}, "no"},
		{stat.Series{1.1}, stat.Want{Floor: 1.5, Goal: 1.15}, "goal"},
		{stat.Series{1.2, 9, 1}, stat.Want{Floor: 1.5, Goal: 1.15}, "floor"},
		{stat.Series{1.6}, stat.Want{Floor: 1.5, Goal: 1.15}, "no"},
		{stat.Series{0}, stat.Want{}, "goal"},
		{stat.Series{1}, stat.Want{}, "no"},
		{nil, stat.Want{Floor: 0.9, Goal: 1}, "not measured"},
	} {
		if got := (stat.Goal{Got: tt.got, Want: tt.want}).Reached(); got != tt.say {
			t.Errorf("%v of %v: %q, want %q", tt.got, tt.want, got, tt.say)
		}
	}
}

// TestTable: the columns are as wide as what is in them, whichever goal is the widest.
func TestTable(t *testing.T) {
	gs := stat.Goals{
		{What: "short", Of: "a layer of a long name", Got: stat.Series{2}, Want: stat.Want{Floor: 1, Goal: 1.5}},
		{What: "a figure that takes some words to describe", Of: "base", Want: stat.Want{Floor: 4, Goal: 2}},
	}
	lines := strings.Split(strings.TrimSuffix(gs.Table("layer"), "\n"), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, want := range [][]string{
		{"what it must reach", "layer", "measured", "floor", "goal", "reached"},
		{"short", "a layer of a long name", "2 (2-2)", "1", "1.5", "goal"},
		{"a figure that takes some words to describe", "base", "-", "4", "2", "not measured"},
	} {
		at := 0
		for _, w := range want {
			j := strings.Index(lines[i][at:], w)
			if j < 0 {
				t.Fatalf("line %d has no %q: %q", i, w, lines[i])
			}
			at += j + len(w)
		}
		if got, want := strings.LastIndex(lines[i], want[5]), strings.LastIndex(lines[0], "reached"); got != want {
			t.Errorf("the last column of line %d begins at %d, not %d", i, got, want)
		}
	}
}

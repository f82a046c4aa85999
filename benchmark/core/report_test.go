// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/seekoci/seekoci/benchmark/internal/stat"
)

func TestReached(t *testing.T) {
	for _, tt := range []struct {
		got  stat.Series
		want want
		say  string
	}{
		{stat.Series{1.1}, want{0.9, 1}, "goal"},
		{stat.Series{0.95}, want{0.9, 1}, "floor"},
		{stat.Series{0.8}, want{0.9, 1}, "no"},
		{stat.Series{1.1}, want{1.5, 1.15}, "goal"},
		{stat.Series{1.2}, want{1.5, 1.15}, "floor"},
		{stat.Series{1.6}, want{1.5, 1.15}, "no"},
		{stat.Series{0}, want{0, 0}, "goal"},
		{stat.Series{1}, want{0, 0}, "no"},
		{nil, want{0.9, 1}, "not measured"},
	} {
		if got := (goal{got: tt.got, want: tt.want}).reached(); got != tt.say {
			t.Errorf("%v of %v: %q, want %q", tt.got, tt.want, got, tt.say)
		}
	}
}

func TestReport(t *testing.T) {
	var r report
	a, b := &contender{name: "a", wall: stat.Series{1}, cpu: stat.Series{2}, peak: stat.Series{3 << 20}}, &contender{name: "b", wall: stat.Series{2}, cpu: stat.Series{2}}
	r.contest("title", megabytes(10e6), []*contender{a, b}, "b")
	r.goal("fast", &layer{name: "base"}, b.wall.Ratio(a.wall), want{1, 1.5})
	var s strings.Builder
	if err := r.write(&s, []string{"header"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"header\n\nwhat it must reach", "base", "2 (2-2)", "goal\n", "\ntitle\n", "10", "0.50 (0.50-0.50)", "reference"} {
		if !strings.Contains(s.String(), want) {
			t.Errorf("the report has no %q:\n%s", want, s.String())
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/seekoci/seekoci/benchmark/internal/stat"
)

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

// SPDX-License-Identifier: Apache-2.0

package stat_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/seekoci/seekoci/benchmark/internal/stat"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		s    stat.Series
		want float64
	}{
		{stat.Series{3}, 3},
		{stat.Series{9, 1, 2}, 2},
		{stat.Series{4, 1, 3, 2}, 2.5},
	} {
		before := slices.Clone(tt.s)
		if got := tt.s.Median(); got != tt.want {
			t.Errorf("median of %v: %v, want %v", []float64(tt.s), got, tt.want)
		}
		if !slices.Equal(before, tt.s) {
			t.Errorf("the rounds of %v were sorted", before)
		}
	}
	if !math.IsNaN(stat.Series(nil).Median()) {
		t.Error("no figures have a median")
	}
}

// TestRatio: one slow round of both does not move the ratio.
func TestRatio(t *testing.T) {
	a, b := stat.Series{1, 10, 1.2, 7}, stat.Series{2, 20, 2.4}
	if got, want := a.Ratio(b), (stat.Series{0.5, 0.5, 0.5}); !slices.Equal(got, want) {
		t.Errorf("ratio %v, want %v", got, want)
	}
	if got, want := a.Ratio(b).String(), "0.50 (0.50-0.50)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := (stat.Series{}).String(); got != "-" {
		t.Errorf("no figures print as %q", got)
	}
}

func TestTime(t *testing.T) {
	var s stat.Series
	fail := errors.New("no")
	if err := s.Time(func() error { return fail }); !errors.Is(err, fail) || len(s) != 1 || s[0] < 0 {
		t.Errorf("error %v, series %v", err, []float64(s))
	}
}

func TestMachine(t *testing.T) {
	if m := stat.Machine(); !strings.Contains(m, "Linux") || strings.Contains(m, "\n") {
		t.Errorf("machine %q", m)
	}
}

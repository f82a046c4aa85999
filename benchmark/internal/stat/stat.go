// SPDX-License-Identifier: Apache-2.0

// Package stat holds what measurements have in common: a [Series] of one figure
// over several rounds, and the description of the machine.
//
//	var full, lazy stat.Series
//	for range rounds { // interleaved, so that both meet the same moods of the machine
//		err := errors.Join(full.Time(pull), lazy.Time(pullLazily))
//	}
//	fmt.Println(full, lazy, full.Ratio(lazy))
//
// # Decisions
//
//   - Medians with minimum and maximum: on a small machine single runs mislead.
//   - A ratio is taken round by round, and its median quoted: the machine's speed drifts, that of a pair much less.
package stat

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Series is the same figure of several rounds.
type Series []float64

// Time adds how long do takes, in seconds.
func (s *Series) Time(do func() error) error {
	start := time.Now()
	err := do()
	*s = append(*s, time.Since(start).Seconds())
	return err
}

// Median is the middle figure, or the mean of the two middle ones. Of none it is NaN.
func (s Series) Median() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(s))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// Ratio divides each figure by the one of the same round in base. Rounds that one
// of the two does not have are left out.
func (s Series) Ratio(base Series) Series {
	r := make(Series, min(len(s), len(base)))
	for i := range r {
		r[i] = s[i] / base[i]
	}
	return r
}

// String is the median and the spread, with two decimals.
func (s Series) String() string { return s.Format("%.2f") }

// Format is the median and the spread, each by format.
func (s Series) Format(format string) string {
	if len(s) == 0 {
		return "-"
	}
	return fmt.Sprintf(format+" ("+format+"-"+format+")", s.Median(), slices.Min(s), slices.Max(s))
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

func TestAxis(t *testing.T) {
	a := newAxis([]line{{points: []point{{30, 1}, {4000, 1}, {0, 1}}}}, func(p point) float64 { return p.x })
	if want := (axis{1, 4}); a != want {
		t.Errorf("axis %v, want %v", a, want)
	}
	if got := a.at(100); math.Abs(got-1.0/3) > 1e-9 {
		t.Errorf("100 is at %v of 10 to 10000", got)
	}
	if got := len(a.marks()); got != 4 {
		t.Errorf("%d marks", got)
	}
	for _, one := range [][]line{nil, {{points: []point{{10, 1}}}}} {
		if a := newAxis(one, func(p point) float64 { return p.x }); a.to <= a.from {
			t.Errorf("axis %v has no length", a)
		}
	}
}

// TestPlot: the diagram is well-formed, and all points are within their panel.
func TestPlot(t *testing.T) {
	p := plot{title: "a < b", panels: []panel{
		{title: "time", x: "files", y: "seconds", lines: []line{{"one", []point{{1e3, 0.01}, {1e6, 12}}}, {"two", []point{{1e3, 0}}}}},
		{title: "empty"},
	}}
	circles := 0
	d := xml.NewDecoder(strings.NewReader(p.svg()))
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := tok.(xml.StartElement); ok && e.Name.Local == "circle" {
			circles++
		}
	}
	if circles != 2 {
		t.Errorf("%d circles, want 2", circles)
	}
	if s := p.svg(); strings.Contains(s, "NaN") || strings.Contains(s, "Inf") {
		t.Error("a coordinate is not a number")
	}
}

func TestMark(t *testing.T) {
	for v, want := range map[float64]string{0.01: "0.01", 1: "1", 1000: "1k", 10000: "10k", 2.5e6: "2.5M", 1e9: "1000M"} {
		if got := mark(v); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
}

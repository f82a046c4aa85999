// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// plot is a log-log diagram of panels side by side, two in a row.
type plot struct {
	title  string
	panels []panel
}

// panel has one pair of axes.
type panel struct {
	title, x, y string // y: what, and its unit
	lines       []line
}

// line is one thing that was measured. Points that are not positive are left out.
type line struct {
	name   string
	points []point
}

type point struct{ x, y float64 }

// The layout of a panel, in pixels.
const (
	panelWidth, panelHeight = 460, 300
	left, right, top, below = 70, 20, 60, 45
)

var colours = [...]string{"#0b6e4f", "#c8553d", "#3d5a80", "#8a6d3b"}

// svg is the diagram as a file.
func (p *plot) svg() string {
	var s strings.Builder
	rows := (len(p.panels) + 1) / 2
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", 2*panelWidth, rows*panelHeight+30)
	fmt.Fprintf(&s, `<rect width="100%%" height="100%%" fill="white"/><text x="%d" y="20" font-size="15" font-weight="bold">%s</text>`+"\n", left/2, html.EscapeString(p.title))
	for i, v := range p.panels {
		fmt.Fprintf(&s, `<g transform="translate(%d,%d)">`+"\n", i%2*panelWidth, i/2*panelHeight+30)
		v.draw(&s)
		s.WriteString("</g>\n")
	}
	s.WriteString("</svg>\n")
	return s.String()
}

func (p *panel) draw(s *strings.Builder) {
	xs, ys := newAxis(p.lines, func(v point) float64 { return v.x }), newAxis(p.lines, func(v point) float64 { return v.y })
	x := func(v float64) float64 { return left + xs.at(v)*(panelWidth-left-right) }
	y := func(v float64) float64 { return panelHeight - below - ys.at(v)*(panelHeight-top-below) }
	fmt.Fprintf(s, `<text x="%d" y="20" font-weight="bold">%s</text>`+"\n", left, html.EscapeString(p.title))
	fmt.Fprintf(s, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", (left+panelWidth-right)/2, panelHeight-8, html.EscapeString(p.x))
	fmt.Fprintf(s, `<text transform="translate(16,%d) rotate(-90)" text-anchor="middle">%s</text>`+"\n", (top+panelHeight-below)/2, html.EscapeString(p.y))
	for _, v := range xs.marks() {
		fmt.Fprintf(s, `<path d="M%.1f %d V%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x(v), top, panelHeight-below, x(v), panelHeight-below+16, mark(v))
	}
	for _, v := range ys.marks() {
		fmt.Fprintf(s, `<path d="M%d %.1f H%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", left, y(v), panelWidth-right, left-6, y(v)+4, mark(v))
	}
	legend := left
	for i, l := range p.lines {
		colour := colours[i%len(colours)]
		var path []string
		for _, v := range l.points {
			if v.x > 0 && v.y > 0 {
				path = append(path, fmt.Sprintf("%.1f,%.1f", x(v.x), y(v.y)))
				fmt.Fprintf(s, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"><title>%s: %s, %s</title></circle>`+"\n", x(v.x), y(v.y), colour, html.EscapeString(l.name), mark(v.x), mark(v.y))
			}
		}
		fmt.Fprintf(s, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(path, " "), colour)
		fmt.Fprintf(s, `<rect x="%d" y="%d" width="12" height="4" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n", legend, top-18, colour, legend+16, top-12, html.EscapeString(l.name))
		legend += 30 + 7*len(l.name)
	}
}

// axis is a logarithmic scale between two powers of ten.
type axis struct{ from, to float64 } // exponents

// newAxis holds one coordinate of all points.
func newAxis(lines []line, of func(point) float64) axis {
	a := axis{math.Inf(1), math.Inf(-1)}
	for _, l := range lines {
		for _, p := range l.points {
			if v := of(p); v > 0 {
				a.from, a.to = min(a.from, math.Floor(math.Log10(v))), max(a.to, math.Ceil(math.Log10(v)))
			}
		}
	}
	if a.from > a.to {
		return axis{0, 1}
	}
	if a.from == a.to {
		a.to++
	}
	return a
}

// at is where v lies between the ends, 0 to 1.
func (a axis) at(v float64) float64 { return (math.Log10(v) - a.from) / (a.to - a.from) }

// marks are the powers of ten.
func (a axis) marks() []float64 {
	var m []float64
	for e := a.from; e <= a.to; e++ {
		m = append(m, math.Pow(10, e))
	}
	return m
}

// mark is a number in as few characters as are needed.
func mark(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.4gM", v/1e6)
	case v >= 1e3:
		return fmt.Sprintf("%.4gk", v/1e3)
	}
	return fmt.Sprintf("%.4g", v)
}

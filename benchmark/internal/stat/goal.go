// SPDX-License-Identifier: Apache-2.0

package stat

import (
	"fmt"
	"math"
	"strings"
)

// Want is what is to be reached: the goal, or the floor at least, which lies on its near side.
type Want struct{ Floor, Goal float64 }

// Goal is one figure that something is to reach.
type Goal struct {
	What string // the figure
	Of   string // what it was measured on, such as a layer
	Got  Series
	Want Want
}

// Reached names the better of the two marks that the median reaches: "goal", "floor" or "no"; or it says "not measured".
func (g Goal) Reached() string {
	sign := 1.0
	if g.Want.Goal <= g.Want.Floor {
		sign = -1
	}
	switch m := g.Got.Median(); {
	case math.IsNaN(m):
		return "not measured"
	case sign*m >= sign*g.Want.Goal:
		return "goal"
	case sign*m >= sign*g.Want.Floor:
		return "floor"
	}
	return "no"
}

// Goals is a table of goals.
type Goals []Goal

// Table is the table as text, under the given name of the column of Goal.Of.
func (gs Goals) Table(of string) string {
	what := len("what it must reach")
	for _, g := range gs {
		what, of = max(what, len(g.What)), fmt.Sprintf("%-*s", len(g.Of), of)
	}
	var s strings.Builder
	row := func(w, o, got, floor, goal, reached string) {
		fmt.Fprintf(&s, "%-*s %-*s %24s %8s %8s  %s\n", what, w, len(of), o, got, floor, goal, reached)
	}
	row("what it must reach", of, "measured", "floor", "goal", "reached")
	for _, g := range gs {
		row(g.What, g.Of, g.Got.Format("%.3g"), fmt.Sprintf("%.4g", g.Want.Floor), fmt.Sprintf("%.4g", g.Want.Goal), g.Reached())
	}
	return s.String()
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os/exec"
	"runtime/debug"
	"strings"
	"time"

	"github.com/seekoci/seekoci/benchmark/internal/stat"
)

// report collects what was measured: the goals, which come first, and the tables behind them.
type report struct {
	goals   stat.Goals
	details strings.Builder
}

// want is what is to be reached: the floor, and the goal.
type want struct{ floor, goal float64 }

func (r *report) goal(what string, l *layer, got stat.Series, w want) {
	r.goals = append(r.goals, stat.Goal{What: what, Of: l.name, Got: got, Want: stat.Want{Floor: w.floor, Goal: w.goal}})
}

// section begins a table of the details.
func (r *report) section(title string) { fmt.Fprintf(&r.details, "\n%s\n", title) }

func (r *report) line(format string, args ...any) { fmt.Fprintf(&r.details, format+"\n", args...) }

// rate turns the seconds of a run into something to compare.
type rate struct {
	unit string
	of   func(seconds float64) float64
}

// megabytes is a rate for runs that go through size bytes.
func megabytes(size int64) rate {
	return rate{"MB/s", func(s float64) float64 { return float64(size) / 1e6 / s }}
}

// contest prints what contenders took, compared with the one named reference.
func (r *report) contest(title string, v rate, contenders []*contender, reference string) {
	r.section(title)
	base := byName(contenders, reference)
	r.line("  %-44s %22s %8s %18s %8s %18s %9s", "", "seconds", v.unit, "against reference", "CPU s", "against reference", "peak MiB")
	for _, c := range contenders {
		wall, cpu, peak := c.wall.Ratio(base.wall).String(), c.cpu.Ratio(base.cpu).String(), "-"
		if c == base {
			wall, cpu = "reference", "reference"
		}
		if p := c.peak.Median(); p > 0 {
			peak = fmt.Sprintf("%.0f", p/(1<<20))
		}
		r.line("  %-44s %22s %8.0f %18s %8.2f %18s %9s", c.name, c.wall.Format("%.3f"), v.of(c.wall.Median()), wall, c.cpu.Median(), cpu, peak)
	}
}

// write prints the header, the goals and the details.
func (r *report) write(w io.Writer, header []string) error {
	var s strings.Builder
	for _, l := range header {
		fmt.Fprintln(&s, l)
	}
	if len(r.goals) > 0 {
		s.WriteString("\n" + r.goals.Table("layer"))
	}
	s.WriteString(r.details.String())
	_, err := io.WriteString(w, s.String())
	return err
}

// header says what was run, where, and with which versions.
func (b *bench) header(args []string) []string {
	lines := []string{
		fmt.Sprintf("%s, commit %s", time.Now().UTC().Format(time.DateOnly), output("git", "describe", "--always", "--dirty", "--exclude=*")),
		"command: " + strings.Join(args, " "),
		"machine: " + stat.Machine(),
		"versions: " + strings.Join(versions(), ", "),
		fmt.Sprintf("files in the page cache; contenders in turn, %d rounds: median (minimum-maximum), ratios round by round", b.rounds),
	}
	for _, l := range b.layers {
		lines = append(lines, fmt.Sprintf("layer %s: %.1f MB, %.1f MB of tar, %d files, %s", l.name, float64(l.size)/1e6, float64(l.tarSize)/1e6, l.files, l.dgst))
	}
	return lines
}

// versions are those of the peers.
func versions() []string {
	var v []string
	for _, args := range [][]string{{"igzip", "--version"}, {"libdeflate-gunzip", "-V"}, {"pigz", "--version"}, {"gzip", "--version"}} {
		if have(args[0]) {
			name, _, _ := strings.Cut(output(args...), "\n")
			v = append(v, args[0]+" "+name[strings.LastIndexByte(name, ' ')+1:])
		}
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "github.com/klauspost/compress" {
				v = append(v, "klauspost/compress "+d.Version)
			}
		}
	}
	return v
}

// output is what a program prints, without the space around it; "?" if it fails.
func output(args ...string) string {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(out))
}

func byName(all []*contender, name string) *contender {
	for _, c := range all {
		if c.name == name {
			return c
		}
	}
	return new(contender)
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/seekoci/seekoci/benchmark/chaos/internal/check"
)

// report is what has happened. It is safe for concurrent use.
type report struct {
	verbose io.Writer // gets what is wrong at once
	all     bool      // and what is explained, too

	mu        sync.Mutex
	notes     map[string]string
	counts    map[string]int64
	kinds     map[kind]int64
	ops       map[string]int64
	bytes     int64
	longest   time.Duration
	slowest   map[string]time.Duration
	peaks     map[string]int64
	explained map[string]int64 // operations and commands that failed, by what explains that
	wrongs    []string
	unknown   []string // failures that nothing explains
	leaked    []string
}

func newReport(verbose io.Writer) *report {
	return &report{
		verbose: verbose, notes: make(map[string]string), counts: make(map[string]int64), kinds: make(map[kind]int64), ops: make(map[string]int64),
		slowest: make(map[string]time.Duration), peaks: make(map[string]int64), explained: make(map[string]int64),
	}
}

func (r *report) locked(do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	do()
}

func (r *report) note(name, value string)  { r.locked(func() { r.notes[name] = value }) }
func (r *report) add(name string, n int64) { r.locked(func() { r.counts[name] += n }) }
func (r *report) faults(k kind, n int64)   { r.locked(func() { r.kinds[k] += n }) }
func (r *report) peak(name string, n int64) {
	r.locked(func() { r.peaks[name] = max(r.peaks[name], n) })
}

func (r *report) most(name string, d time.Duration) {
	r.locked(func() { r.slowest[name] = max(r.slowest[name], d) })
}

func (r *report) peakOf(name string) (n int64) {
	r.locked(func() { n = r.peaks[name] })
	return n
}

func (r *report) injected() (n int64) {
	r.locked(func() {
		for _, k := range r.kinds {
			n += k
		}
	})
	return n
}

// done adds what a checker has done that is no more.
func (r *report) done(p check.Progress) {
	r.locked(func() {
		for way, n := range p.Ops {
			r.ops[way] += n
		}
		r.bytes += p.Bytes
		r.longest = max(r.longest, time.Duration(p.Longest))
	})
}

// list adds a line to one of the lists of what is wrong, and says it at once.
func (r *report) list(to *[]string, mark, format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	r.locked(func() {
		*to = append(*to, line)
		fmt.Fprintf(r.verbose, "%s %s: %s\n", time.Now().Format(time.TimeOnly), mark, line)
	})
}

func (r *report) wrong(format string, args ...any) { r.list(&r.wrongs, "WRONG", format, args...) }
func (r *report) fault(format string, args ...any) {
	r.list(&r.unknown, "UNEXPLAINED", format, args...)
}
func (r *report) leak(format string, args ...any) { r.list(&r.leaked, "LEAK", format, args...) }

// log passes on what helps to understand a line before.
func (r *report) log(text string) { r.locked(func() { fmt.Fprintln(r.verbose, text) }) }

// phase says what comes now.
func (r *report) phase(name string) {
	r.log(time.Now().Format(time.TimeOnly) + " " + name)
}

// failure counts an operation of a checker that failed.
func (r *report) failure(image string, f check.Failure, why reason) {
	line := func() string {
		return fmt.Sprintf("%s of %s in image %s, %d bytes at %d, began at %.3f s and took %.3f s: %s",
			f.Way, f.Path, image, f.Len, f.Off, float64(f.Begin)/1e9, float64(f.End-f.Begin)/1e9, f.Text)
	}
	switch {
	case f.Wrong:
		r.wrong("%s", line())
	case why == unexplained:
		r.fault("%s", line())
	default:
		r.explain(string(why), line)
		r.locked(func() { r.explained["operations failed: "+string(why)]++ })
	}
}

// explain says what failed and why it may, to those who want to know.
func (r *report) explain(why string, line func() string) {
	if r.all {
		r.log(time.Now().Format(time.TimeOnly) + " explained (" + why + "): " + line())
	}
}

// command counts a command that failed.
func (r *report) command(c command, err error, why reason) {
	if why == unexplained {
		r.fault("%s: %v", c, err)
		return
	}
	r.explain(string(why), func() string { return fmt.Sprintf("%s: %v", c, err) })
	r.locked(func() { r.explained[fmt.Sprintf("commands failed, to %s: %s", c, why)]++ })
}

// ok reports whether nothing was wrong.
func (r *report) ok() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.wrongs)+len(r.unknown)+len(r.leaked) == 0
}

// total is the number of operations that were right.
func (r *report) total() (n int64) {
	r.locked(func() {
		for _, k := range r.ops {
			n += k
		}
	})
	return n
}

// write writes the report.
func (r *report) write(w io.Writer) {
	total := r.total()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(r.notes)) {
		fmt.Fprintf(w, "%s: %s\n", name, r.notes[name])
	}
	var faults int64
	for _, n := range r.kinds {
		faults += n
	}
	fmt.Fprintf(w, "\nbytes compared    %d (%.1f GB)\noperations        %d\nfaults            %d\nwrong             %d\nunexplained       %d\nleaks             %d\n",
		r.bytes, float64(r.bytes)/1e9, total, faults, len(r.wrongs), len(r.unknown), len(r.leaked))
	for _, l := range []struct {
		name string
		kind lane
	}{{"faults of the node", nodeLane}, {"answers of the registry spoilt", registryLane}, {"what users did", userLane}} {
		fmt.Fprintf(w, "\n%s\n", l.name)
		for _, k := range kindsOf(l.kind) {
			fmt.Fprintf(w, "  %-12s %8d\n", k, r.kinds[k])
		}
	}
	fmt.Fprint(w, "\noperations that were right, by way\n")
	for _, way := range slices.Sorted(maps.Keys(r.ops)) {
		fmt.Fprintf(w, "  %-12s %8d\n", way, r.ops[way])
	}
	fmt.Fprint(w, "\nfailed, and explained\n")
	for _, name := range slices.Sorted(maps.Keys(r.explained)) {
		fmt.Fprintf(w, "  %8d %s\n", r.explained[name], name)
	}
	fmt.Fprint(w, "\nbesides\n")
	for _, name := range slices.Sorted(maps.Keys(r.counts)) {
		fmt.Fprintf(w, "  %8d %s\n", r.counts[name], name)
	}
	fmt.Fprintf(w, "  longest operation that was right: %v\n", r.longest.Round(time.Millisecond))
	for _, name := range slices.Sorted(maps.Keys(r.slowest)) {
		fmt.Fprintf(w, "  %s: %v\n", name, r.slowest[name].Round(time.Millisecond))
	}
	for _, name := range slices.Sorted(maps.Keys(r.peaks)) {
		fmt.Fprintf(w, "  most at a time: %s: %d\n", name, r.peaks[name])
	}
	for _, l := range []struct {
		name  string
		lines []string
	}{{"wrong", r.wrongs}, {"unexplained", r.unknown}, {"leaks", r.leaked}} {
		if len(l.lines) > 0 {
			fmt.Fprintf(w, "\n%s\n  %s\n", l.name, strings.Join(l.lines[:min(len(l.lines), 30)], "\n  "))
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

// Testsum reads what `go test -json` writes and prints what a person wants to
// know: one line per package, the whole output of what failed, why each skipped test was skipped, and the counts.
//
//	go test -race -json ./... | testsum
//	go test -race -json ./... | testsum -no-skips
//
// It exits with 1 if anything failed or nothing was tested, and with -no-skips also if a test was skipped.
//
// # Limits
//
// The output of tests is kept until they end; subtests count as tests.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	noSkips := flag.Bool("no-skips", false, "fail if a test was skipped")
	flag.Parse()
	s, err := Read(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(1)
	}
	s.Print(os.Stdout)
	if s.Failed > 0 || s.Passed == 0 || *noSkips && len(s.Skips) > 0 {
		os.Exit(1)
	}
}

// event is one line of go test -json; see go doc test2json.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build events
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string
}

// Summary is the result of a run.
type Summary struct {
	Passed, Failed int    // tests, subtests included; a package that fails as a whole is one failure
	Skips          []Skip // in order
}

// Skip is a test that was skipped.
type Skip struct {
	Package, Test, Reason string
}

// Read reads the events from r to their end, and writes a line per package and the output of failures to w as they come.
func Read(r io.Reader, w io.Writer) (*Summary, error) {
	s := &Summary{}
	outputs := make(map[string][]string) // of tests and packages under way
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			var e event
			if json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
				fmt.Fprint(w, line) // not test2json's: go's own messages
			} else {
				s.event(e, outputs, w)
			}
		}
		if err == io.EOF {
			return s, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read events: %w", err)
		}
	}
}

func (s *Summary) event(e event, outputs map[string][]string, w io.Writer) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		outputs[key] = append(outputs[key], e.Output)
	case "build-output":
		fmt.Fprint(w, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.pkg(e, outputs[key], w)
		} else {
			s.test(e, outputs[key], w)
		}
		delete(outputs, key)
	}
}

// test counts a test that has ended.
func (s *Summary) test(e event, output []string, w io.Writer) {
	switch e.Action {
	case "pass":
		s.Passed++
	case "skip":
		s.Skips = append(s.Skips, Skip{e.Package, e.Test, reason(output)})
	case "fail":
		s.Failed++
		fmt.Fprintf(w, "FAIL %s %s\n%s", e.Package, e.Test, strings.Join(output, ""))
	}
}

// pkg prints the line of a package that has ended, and its own output if that says more than that a test failed.
func (s *Summary) pkg(e event, output []string, w io.Writer) {
	took := time.Duration(e.Elapsed * float64(time.Second)).Round(10 * time.Millisecond)
	switch e.Action {
	case "pass":
		fmt.Fprintf(w, "ok   %s %s\n", e.Package, took)
	case "fail":
		if e.FailedBuild != "" || s.Failed == 0 || isPanic(output) {
			s.Failed++
			fmt.Fprint(w, strings.Join(output, ""))
		}
		fmt.Fprintf(w, "FAIL %s %s\n", e.Package, took)
	}
}

// isPanic reports whether a package ended otherwise than by its tests.
func isPanic(output []string) bool {
	return slices.ContainsFunc(output, func(line string) bool {
		return strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") || strings.HasPrefix(line, "signal:") ||
			strings.HasPrefix(line, "exit status") || strings.Contains(line, "WARNING: DATA RACE")
	})
}

// frame are the lines of the test framework around what a test says.
var frame = regexp.MustCompile(`^\s*(=== |--- )`)

// reason is what a skipped test said, in one line.
func reason(output []string) string {
	var said []string
	for _, line := range output {
		if !frame.MatchString(line) {
			said = append(said, strings.TrimSpace(line))
		}
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return strings.Join(said, " ")
}

// Print writes the skips and, as the last line, the counts.
func (s *Summary) Print(w io.Writer) {
	for _, k := range s.Skips {
		fmt.Fprintf(w, "SKIP %s %s: %s\n", k.Package, k.Test, k.Reason)
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", s.Passed, s.Failed, len(s.Skips))
}

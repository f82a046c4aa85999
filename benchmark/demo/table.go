// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"

	"github.com/seekoci/seekoci/benchmark/internal/image"
)

func size(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

// same checks that both nodes printed the same, and the right thing.
func same(full, lazy leg) error {
	for _, c := range []struct{ what, full, lazy, want string }{
		{"go version", full.version.Stdout, lazy.version.Stdout, "go version go"},
		{"go run .", full.compile.Stdout, lazy.compile.Stdout, image.Hello + "\n"},
	} {
		if c.full != c.lazy {
			return fmt.Errorf("%s: the full pull printed %q, the lazy one %q", c.what, c.full, c.lazy)
		}
		if !strings.HasPrefix(c.full, c.want) {
			return fmt.Errorf("%s printed %q, want %q", c.what, c.full, c.want)
		}
	}
	return nil
}

// table prints the comparison.
func table(out io.Writer, full, lazy leg) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
	row := func(name, a, b string) { fmt.Fprintf(w, "%s\t%s\t%s\t\n", name, a, b) }
	firstOutput := func(l leg) time.Duration { return l.pull + l.version.First }
	compiled := func(l leg) time.Duration { return l.pull + l.version.Total + l.compile.Total }
	fmt.Fprintln(w)
	row("", "full pull", "lazy")
	row("pull", seconds(full.pull), seconds(lazy.pull))
	row("first output of `go version`, pull included", seconds(firstOutput(full)), seconds(firstOutput(lazy)))
	row("`go run .` compiled and done, all included", seconds(compiled(full)), seconds(compiled(lazy)))
	row("bytes from the registry", size(full.wire), size(lazy.wire))
	row("of them for files that were read", "-", size(lazy.fetched.bytes))
	row("spans fetched", "-", fmt.Sprintf("%d of %d", lazy.fetched.spans, lazy.fetched.allSpans))
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\nBoth printed the same. First output %.1f times as fast, with %.0f%% of the bytes.\n",
		firstOutput(full).Seconds()/firstOutput(lazy).Seconds(), 100*float64(lazy.wire)/float64(full.wire))
	return err
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/seekoci/seekoci/benchmark/internal/image"
)

// size is n in a unit that is easy to read.
func size(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// same checks that both nodes printed the same, and the right thing.
func same(full, lazy leg) error {
	for _, c := range []struct{ what, full, lazy, want string }{
		{"go version", full.version.Output, lazy.version.Output, "go version go"},
		{"go run .", full.compile.Output, lazy.compile.Output, image.Hello + "\n"},
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
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
	firstOutput := func(l leg) time.Duration { return l.pull + l.version.First }
	compiled := func(l leg) time.Duration { return l.pull + l.version.Total + l.compile.Total }
	var b strings.Builder
	for _, row := range [][3]string{
		{"", "full pull", "lazy"},
		{"pull", seconds(full.pull), seconds(lazy.pull)},
		{"pull to first output of `go version`", seconds(firstOutput(full)), seconds(firstOutput(lazy))},
		{"pull to end of `go run .`", seconds(compiled(full)), seconds(compiled(lazy))},
		{"bytes fetched of " + size(full.wire), size(full.wire), size(lazy.wire)},
		{"  layer data among them", size(full.layers), size(lazy.fetched.bytes)},
		{fmt.Sprintf("spans fetched of %d", lazy.fetched.allSpans), "all", fmt.Sprint(lazy.fetched.spans)},
	} {
		fmt.Fprintf(&b, "%-38s %12s %12s\n", row[0], row[1], row[2])
	}
	_, err := fmt.Fprintf(out, "\n%s\nBoth printed the same. The first output came %.1f times as fast, with %.0f%% of the bytes in the end.\n",
		b.String(), firstOutput(full).Seconds()/firstOutput(lazy).Seconds(), 100*float64(lazy.wire)/float64(full.wire))
	return err
}

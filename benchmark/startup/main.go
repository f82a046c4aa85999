// SPDX-License-Identifier: Apache-2.0

// Startup measures the serve path: how long it takes from nothing to the end of a
// container's first run, lazily and with a full pull, and what comes after it.
//
//	go build -o bin/startup ./benchmark/startup
//	benchmark/startup/torch.sh DIR
//	bin/startup -layer DIR/base.tar.gz -layer DIR/torch.tar.gz python3 -c 'import torch; print(torch.__version__)'
//
// The rounds interleave: each makes a fresh node for every contender, with cold
// caches. What is measured is also checked: all containers print the same, and all
// file trees have the same names, attributes and bytes. The table of goals comes
// first; -only runs some of the sections:
//
//	start    pull and run on loopback: overlayfs, and lazily with the 0.9 zTOC and with the compact one
//	profile  the same with a recorded prefetch profile
//	link     the same over a line of 1 Gbit/s and 5 ms
//	bytes    what is fetched until the first run has ended, against the pages it touches
//	random   4 KiB at random offsets, nothing there yet
//	read     every file once, nothing there yet
//	local    until the whole image is there and verified, over the same line
//	warm     file trees and files that are in the caches, against overlayfs
//	many     ten containers at once
//	norange  a registry that ignores ranges (not one of the rounds, no goal)
//
// The types to know are bench, which runs the rounds, and leg, one contender's figures.
//
// # Limits
//
// As for the demo: root, /dev/fuse, overlayfs, containerd, runc; and igzip, whose speed is
// part of the lower bound. The registry is this program, on the loopback interface.
//
// # Decisions
//
//   - The lower bound is what no lazy start can beat: the run with everything in the page
//     cache, the round trips that depend on each other, and the larger of fetching and
//     inflating the pages touched, perfectly. What it takes for it is measured in the same round.
//   - Pages touched are those that the kernel asks for with readahead switched off. What it
//     asks for on overlayfs, readahead included, is several times as much, and in the report too.
//   - Bytes are counted with the background fetch switched off: it uses a line that is idle.
//   - The line is a proxy in this program (package link): it needs no privileges and slows nothing else.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/benchmark/internal/sandbox"
)

// layers is a flag that may be given several times.
type layers []string

// String implements flag.Value.
func (l *layers) String() string { return strings.Join(*l, ",") }

// Set implements flag.Value.
func (l *layers) Set(path string) error {
	*l = append(*l, path)
	return nil
}

// sections are the names that -only takes.
var sections = []string{"start", "profile", "link", "bytes", "random", "read", "local", "warm", "many", "norange"}

// choice is what -only asks for.
type choice map[string]bool

// choose reads the value of -only; "" is everything.
func choose(only string) (choice, error) {
	names := sections
	if only != "" {
		names = strings.Split(only, ",")
	}
	c := make(choice)
	for _, name := range names {
		if !slices.Contains(sections, name) {
			return nil, fmt.Errorf("there is no section %q, only %s", name, strings.Join(sections, ", "))
		}
		c[name] = true
	}
	return c, nil
}

// any reports whether one of the sections is wanted.
func (c choice) any(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return c[name] })
}

func main() {
	var b bench
	var only string
	flag.StringVar(&b.bin, "bin", "bin", "`directory` of soci and soci-snapshotter-grpc")
	flag.IntVar(&b.rounds, "rounds", 3, "rounds of each comparison")
	flag.StringVar(&only, "only", "", "comma-separated `sections`: "+strings.Join(sections, ", ")+"; all by default")
	flag.Var(&b.layers, "layer", "gzip `file` of a layer, lowest first; may be repeated")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: startup -layer FILE [-layer FILE ...] [flags] COMMAND [ARG ...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	b.args = flag.Args()
	var err error
	if b.wanted, err = choose(only); err != nil || len(b.layers) == 0 || len(b.args) == 0 || b.rounds < 1 {
		if err != nil {
			fmt.Fprintf(os.Stderr, "startup: %v\n", err)
		}
		flag.Usage()
		os.Exit(2)
	}
	if err := sandbox.Check(); err != nil {
		fmt.Fprintf(os.Stderr, "startup: %v\n", err)
		os.Exit(1)
	}
	os.Exit(sandbox.Run(sandbox.Options{}, func(dir string) int {
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
		defer stop()
		b.dir = dir
		if err := b.run(ctx, os.Stdout); err != nil {
			fmt.Fprintf(os.Stderr, "startup: %v\n", err)
			return 1
		}
		return 0
	}))
}

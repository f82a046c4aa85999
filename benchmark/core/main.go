// SPDX-License-Identifier: Apache-2.0

// Core measures the inflater, the index builder and random access against their
// goals and their peers, on layers of gzip:
//
//	make bench                               # on a layer of the machine's Go tree
//
//	benchmark/core/layers.sh out/layers      # the four layers of the published results
//	make bench CORE='-full -o benchmark/results'
//
// All contenders of a comparison run in turn within each round, so that they meet the
// same moods of the machine, and ratios are taken round by round. Whatever is
// measured is also checked: digests of what was inflated, and of the zTOCs' contents
// against what compress/gzip and archive/tar say of the layer.
//
// The two types to know are contender, a way to do something, and report, which has
// the table of goals and the figures behind it.
//
// # Limits
//
// Linux. Needs igzip, the reference, and go to build the variants of the inflater;
// other peers are left out where they are not installed. Layers are read from the
// page cache. The growth of -full takes half an hour, and 10 GiB pass through a pipe.
//
// # Decisions
//
//   - Programs are whole processes, started by a small one in between: a child's peak
//     memory would otherwise be at least that of this program.
//   - On one processor, CPU seconds are compared: what else runs there does not count.
//     On both, it is wall time that matters.
//   - Layers that are larger than anyone wants to keep are generated: blocks
//     compressed once from real files, in random order. That costs the builder as much
//     as a layer made in the ordinary way, and the generator next to nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// bench is what the measurements share.
type bench struct {
	report
	bin    string
	tmp    string // a directory, empty at first
	rounds int
	full   bool
	out    string // directory of the results; "": none
	layers []*layer
}

// sections are the measurements by their names, in the order in which they run.
var sections = []struct {
	name string
	run  func(*bench, context.Context, *layer) error
}{
	{"inflate", (*bench).inflate},
	{"spans", (*bench).spans},
	{"build", (*bench).build},
	{"random", (*bench).random},
	{"open", (*bench).open},
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == execMode {
		os.Exit(execMeasured(os.Args[2:]))
	}
	var b bench
	var only string
	flag.StringVar(&b.bin, "bin", "bin", "`directory` of soci")
	flag.IntVar(&b.rounds, "rounds", 5, "rounds of each comparison")
	flag.StringVar(&only, "only", "", "comma-separated `sections`: inflate, spans, build, random, open, growth, encoders; all but encoders by default")
	flag.BoolVar(&b.full, "full", false, "growth up to 10 GiB and 1,000,000 files, not 1 GiB and 100,000")
	flag.StringVar(&b.out, "o", "", "`directory` to write core.txt, core-size.svg and core-files.svg to")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: core [flags] LAYER.tar.gz|DIRECTORY ...")
		flag.PrintDefaults()
	}
	flag.Parse()
	if b.rounds < 1 || flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := b.run(ctx, flag.Args(), chosen(only)); err != nil {
		fmt.Fprintf(os.Stderr, "core: %v\n", err)
		os.Exit(1)
	}
}

// chosen reports whether a section is wanted.
func chosen(only string) func(string) bool {
	return func(name string) bool {
		if only == "" {
			return name != "encoders"
		}
		return slices.Contains(strings.Split(only, ","), name)
	}
}

func (b *bench) run(ctx context.Context, args []string, wanted func(string) bool) (err error) {
	if !have("igzip") {
		return errors.New("igzip is not installed (Debian: apt-get install isal)")
	}
	if b.tmp, err = os.MkdirTemp("", "core-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.tmp)) }()
	paths, err := layerFiles(ctx, args)
	if err != nil {
		return err
	}
	for _, p := range paths {
		l, err := readLayer(p)
		if err != nil {
			return err
		}
		b.layers = append(b.layers, l)
	}
	for _, s := range sections {
		if !wanted(s.name) {
			continue
		}
		for _, l := range b.layers {
			fmt.Fprintf(os.Stderr, "%s %s\n", s.name, l.name)
			if err := s.run(b, ctx, l); err != nil {
				return fmt.Errorf("%s of %s: %w", s.name, l.path, err)
			}
		}
	}
	if wanted("encoders") {
		if err := b.encoders(ctx, b.layers[0]); err != nil {
			return fmt.Errorf("encoders: %w", err)
		}
	}
	if wanted("growth") {
		if err := b.growth(ctx); err != nil {
			return fmt.Errorf("growth: %w", err)
		}
	}
	return b.finish()
}

// finish prints the report, and writes it to the results.
func (b *bench) finish() error {
	header := b.header(append([]string{"core"}, names(os.Args[1:])...))
	if err := b.write(os.Stdout, header); err != nil {
		return err
	}
	if b.out == "" {
		return nil
	}
	f, err := os.Create(filepath.Join(b.out, "core.txt"))
	if err != nil {
		return err
	}
	return errors.Join(b.write(f, header), f.Close())
}

// names shortens the paths of layers to their names.
func names(args []string) []string {
	args = slices.Clone(args)
	for i, a := range args {
		if strings.HasSuffix(a, ".gz") {
			args[i] = filepath.Base(a)
		}
	}
	return args
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/benchmark/internal/stat"
	"github.com/seekoci/seekoci/ztoc"
)

// growthRounds is the number of rounds for each generated layer.
const growthRounds = 3

// growth measures how time, memory and sizes grow with the size of a layer and with
// the number of its files. The layers are generated from the largest one at hand.
func (b *bench) growth(ctx context.Context) error {
	from := b.layers[0]
	for _, l := range b.layers {
		if l.size > from.size {
			from = l
		}
	}
	pool, err := readPool(from.path, poolSize)
	if err != nil {
		return err
	}
	sizes, files := []int64{64 << 20, 256 << 20, 1 << 30}, []int{1000, 10_000, 100_000}
	if b.full {
		sizes, files = append(sizes, 4<<30, 10<<30), append(files, 1_000_000)
	}
	var bySize, byFiles []*grown
	for _, v := range sizes {
		bySize = append(bySize, &grown{generated: generated{pool: pool, size: v}, x: float64(v) / 1e9})
	}
	for _, v := range files {
		byFiles = append(byFiles, &grown{generated: generated{pool: pool, files: v}, x: float64(v)})
	}
	return firstError(
		b.grow(ctx, "size", "GB", "uncompressed size of the layer, GB", bySize),
		b.grow(ctx, "files", "files", "files of the layer", byFiles),
	)
}

// grown is a generated layer and what was measured on it.
type grown struct {
	generated
	x            float64 // what grows
	build, igzip *contender
	open         stat.Series // seconds
	old, compact int         // bytes of the zTOCs
}

func (b *bench) grow(ctx context.Context, name, unit, axis string, layers []*grown) error {
	b.section(fmt.Sprintf("growth with the %s, generated and streamed through soci ztoc build -, two processors, %d rounds", axis, growthRounds))
	b.line("  %12s %10s %10s %22s %10s %8s %9s %12s %12s %10s", unit, "tar MB", "gzip MB", "build, s", "igzip, s", "against", "peak MiB", "0.9 bytes", "compact", "open, ms")
	for _, g := range layers {
		fmt.Fprintf(os.Stderr, "growth %s %g\n", name, g.x)
		if err := b.measureGrown(ctx, g); err != nil {
			return fmt.Errorf("layer of %s %g: %w", name, g.x, err)
		}
		b.line("  %12.4g %10.0f %10.0f %22s %10.2f %8.2f %9.0f %12d %12d %10.3f", g.x, float64(g.tar)/1e6, float64(g.gzip)/1e6, g.build.wall, g.igzip.wall.Median(),
			g.build.wall.Ratio(g.igzip.wall).Median(), mib(g.build.peak).Median(), g.old, g.compact, ms(g.open).Median())
	}
	last := layers[len(layers)-1]
	l := &layer{name: mark(last.x) + " " + unit}
	b.goal(fmt.Sprintf("peak memory of soci ztoc build -, MiB, at the largest %s", name), l, mib(last.build.peak), want{256, goalMemory(last.files)})
	if b.out == "" {
		return nil
	}
	p := growthPlot(fmt.Sprintf("Growth with the %s", axis), axis, layers)
	return os.WriteFile(filepath.Join(b.out, "core-"+name+".svg"), []byte(p.svg()), 0o644)
}

func (b *bench) measureGrown(ctx context.Context, g *grown) error {
	const name = "generated"
	streamed := g.piped
	if g.size > 0 {
		if err := g.measure(io.Discard); err != nil {
			return err
		}
	} else { // small files have to be compressed, which nobody is to wait for
		f, err := os.Create(filepath.Join(b.tmp, name+".tar.gz"))
		if err != nil {
			return err
		}
		defer os.Remove(f.Name())
		defer f.Close()
		if err := g.measure(f); err != nil {
			return err
		}
		streamed = func(args ...string) *contender { return fromFile(f, args...) }
	}
	g.build = streamed(b.soci("-", name, "--diff-id", g.diffID.String())...)
	g.igzip = streamed("igzip", "-dc")
	if err := race(ctx, growthRounds, []*contender{g.build, g.igzip}); err != nil {
		return err
	}
	x, err := b.readIndex(name)
	if err != nil {
		return err
	}
	if got := x.compact.DiffID(); got != g.diffID || g.files != 0 && x.compact.Len() != g.files {
		return fmt.Errorf("the compact zTOC has %d files and diffID %s, want %d and %s", x.compact.Len(), got, g.files, g.diffID)
	}
	g.old, g.compact = len(x.old), len(x.small)
	for range 2 * growthRounds {
		if err := g.open.Time(func() error { _, err := ztoc.OpenCompact(x.small); return err }); err != nil {
			return err
		}
	}
	return nil
}

// fromFile is a contender that runs a program with f as its standard input.
func fromFile(f *os.File, args ...string) *contender {
	return &contender{name: args[0], once: func(ctx context.Context) (usage, error) {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return usage{}, err
		}
		return (&command{args: args, cpus: 2, stdin: f}).run(ctx)
	}}
}

// piped is a contender that runs a program with the layer coming out of a pipe.
func (g *grown) piped(args ...string) *contender {
	return &contender{name: args[0], once: func(ctx context.Context) (usage, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return usage{}, err
		}
		defer r.Close()
		if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 1<<20); err != nil {
			w.Close()
			return usage{}, fmt.Errorf("enlarge the pipe: %w", err)
		}
		wrote := make(chan error, 1)
		go func() {
			err := g.write(w)
			wrote <- firstError(err, w.Close())
		}()
		u, err := (&command{args: args, cpus: 2, stdin: r}).run(ctx)
		r.Close() // nobody reads what is left
		return u, firstError(err, <-wrote)
	}}
}

// firstError is the first of errs that is not nil: what follows comes of it.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func growthPlot(title, axis string, layers []*grown) *plot {
	lines := func(of ...func(*grown) float64) []line {
		ls := make([]line, len(of))
		for i, f := range of {
			for _, g := range layers {
				ls[i].points = append(ls[i].points, point{g.x, f(g)})
			}
		}
		return ls
	}
	named := func(ls []line, names ...string) []line {
		for i := range ls {
			ls[i].name = names[i]
		}
		return ls
	}
	return &plot{title: title, panels: []panel{
		{"Time to build", axis, "seconds", named(lines(
			func(g *grown) float64 { return g.build.wall.Median() },
			func(g *grown) float64 { return g.igzip.wall.Median() }), "soci ztoc build, both zTOCs", "igzip -dc")},
		{"Peak memory of the build", axis, "MiB", named(lines(
			func(g *grown) float64 { return mib(g.build.peak).Median() }), "soci ztoc build")},
		{"Size of the zTOC", axis, "bytes", named(lines(
			func(g *grown) float64 { return float64(g.old) },
			func(g *grown) float64 { return float64(g.compact) }), "0.9, 4 MiB spans", "compact")},
		{"Time to open the compact zTOC", axis, "ms", named(lines(
			func(g *grown) float64 { return ms(g.open).Median() }), "in memory")},
	}}
}

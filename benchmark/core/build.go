// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/seekoci/seekoci/benchmark/internal/stat"
	"github.com/seekoci/seekoci/ztoc"
)

// indexed is a layer with its zTOCs.
type indexed struct {
	data []byte // the layer
	old  []byte // its 0.9 zTOC
	ztoc *ztoc.ZTOC
}

// soci is the command that builds the zTOC of a layer file, or of standard input for -, as name.ztoc.
func (b *bench) soci(layer, name string, args ...string) []string {
	return append([]string{filepath.Join(b.bin, "soci"), "ztoc", "build"},
		append(args, "-o", filepath.Join(b.tmp, name+".ztoc"), layer)...)
}

// index builds the zTOCs of l and checks them.
func (b *bench) index(ctx context.Context, l *layer, args ...string) (*indexed, error) {
	if _, err := (&command{args: b.soci(l.path, l.name, args...)}).run(ctx); err != nil {
		return nil, err
	}
	x, err := b.readIndex(l.name)
	if err != nil {
		return nil, err
	}
	if x.data, err = os.ReadFile(l.path); err != nil {
		return nil, err
	}
	return x, x.check(l)
}

func (b *bench) readIndex(name string) (*indexed, error) {
	var x indexed
	var err error
	if x.old, err = os.ReadFile(filepath.Join(b.tmp, name+".ztoc")); err != nil {
		return nil, err
	}
	x.ztoc, err = ztoc.Unmarshal(x.old)
	return &x, err
}

// check compares what the zTOCs say with the layer.
func (x *indexed) check(l *layer) error {
	if got := x.ztoc.Len(); got != l.files {
		return fmt.Errorf("the zTOC of %s has %d files, not %d", l.name, got, l.files)
	}
	return newSpanDecoder(x.ztoc.ZInfo, x.data, ours).check(l)
}

// build measures soci ztoc build.
func (b *bench) build(ctx context.Context, l *layer) error {
	x, err := b.index(ctx, l)
	if err != nil {
		return err
	}
	const (
		one, two           = "soci ztoc build", "two builds at once"
		inflate, inflateX2 = "igzip -dc", "igzip -dc twice in turn"
	)
	build := func(name string) *contender { return program(one, 2, b.soci(l.path, name)...) }
	igzip := program(inflate, 2, "igzip", "-dc", l.path)
	contenders := []*contender{build(l.name), igzip}
	if err := race(ctx, b.rounds, contenders); err != nil {
		return err
	}
	b.contest(fmt.Sprintf("%s: build the zTOC, two processors, whole process", l.name), megabytes(l.tarSize), contenders, inflate)
	b.goal("soci ztoc build, the zTOC, two processors, time against igzip -dc", l, contenders[0].wall.Ratio(igzip.wall), want{1.5, 1.15})
	b.goal("peak memory of soci ztoc build, MiB", l, mib(contenders[0].peak), want{256, goalMemory(l.files)})

	twice := []*contender{atOnce(two, build("a"), build("b")), inTurn(inflateX2, program("", 2, "igzip", "-dc", l.path), program("", 2, "igzip", "-dc", l.path))}
	if err := race(ctx, b.rounds, twice); err != nil {
		return err
	}
	b.contest(fmt.Sprintf("%s, twice: build the zTOC of both, two processors", l.name), megabytes(2*l.tarSize), twice, inflateX2)
	b.goal("two equal layers at once, time against igzip -dc of one after the other", l, twice[0].wall.Ratio(twice[1].wall), want{1.0, 0.85})
	b.section(fmt.Sprintf("%s: the 0.9 zTOC has %d bytes", l.name, len(x.old)))
	return nil
}

// mib turns bytes into MiB.
func mib(s stat.Series) stat.Series {
	m := make(stat.Series, len(s))
	for i, v := range s {
		m[i] = v / (1 << 20)
	}
	return m
}

// goalMemory is what a build of so many files is to need at most, in MiB.
func goalMemory(files int) float64 { return 64 + 48*float64(files)/(1<<20) }

// ms turns seconds into milliseconds.
func ms(s stat.Series) stat.Series {
	m := make(stat.Series, len(s))
	for i, v := range s {
		m[i] = v * 1e3
	}
	return m
}

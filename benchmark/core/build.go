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
	data    []byte // the layer
	old     []byte // its 0.9 zTOC
	ztoc    *ztoc.ZTOC
	small   []byte // its compact zTOC
	compact *ztoc.Compact
}

// soci is the command that builds both zTOCs of a layer file, or of standard input for -, as name.ztoc and name.compact.
func (b *bench) soci(layer, name string, args ...string) []string {
	return append([]string{filepath.Join(b.bin, "soci"), "ztoc", "build"},
		append(args, "-o", filepath.Join(b.tmp, name+".ztoc"), "--compact-output", filepath.Join(b.tmp, name+".compact"), layer)...)
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
	if x.small, err = os.ReadFile(filepath.Join(b.tmp, name+".compact")); err != nil {
		return nil, err
	}
	if x.ztoc, err = ztoc.Unmarshal(x.old); err != nil {
		return nil, err
	}
	x.compact, err = ztoc.OpenCompact(x.small)
	return &x, err
}

// check compares what the zTOCs say with the layer.
func (x *indexed) check(l *layer) error {
	c := x.compact
	for _, v := range []struct {
		what      string
		got, want any
	}{
		{"diffID", c.DiffID(), l.diffID},
		{"layer digest", c.LayerDigest(), l.dgst},
		{"files of the compact zTOC", c.Len(), l.files},
		{"files of the 0.9 zTOC", len(x.ztoc.TOC), l.files},
	} {
		if v.got != v.want {
			return fmt.Errorf("zTOCs of %s: %s is %v, not %v", l.name, v.what, v.got, v.want)
		}
	}
	return nil
}

// build measures soci ztoc build, of both zTOCs and with the diffID checked, and what it writes.
func (b *bench) build(ctx context.Context, l *layer) error {
	x, err := b.index(ctx, l, "--diff-id", l.diffID.String())
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
	b.contest(fmt.Sprintf("%s: build both zTOCs, two processors, whole process", l.name), megabytes(l.tarSize), contenders, inflate)
	b.goal("soci ztoc build, both zTOCs, two processors, time against igzip -dc", l, contenders[0].wall.Ratio(igzip.wall), want{1.5, 1.15})
	b.goal("peak memory of soci ztoc build, MiB", l, mib(contenders[0].peak), want{256, goalMemory(l.files)})

	twice := []*contender{atOnce(two, build("a"), build("b")), inTurn(inflateX2, program("", 2, "igzip", "-dc", l.path), program("", 2, "igzip", "-dc", l.path))}
	if err := race(ctx, b.rounds, twice); err != nil {
		return err
	}
	b.contest(fmt.Sprintf("%s, twice: build both zTOCs of each, two processors", l.name), megabytes(2*l.tarSize), twice, inflateX2)
	b.goal("two equal layers at once, time against igzip -dc of one after the other", l, twice[0].wall.Ratio(twice[1].wall), want{1.0, 0.85})
	return b.sizes(ctx, l, x)
}

// sizes compares the sizes of the zTOCs.
func (b *bench) sizes(ctx context.Context, l *layer, x *indexed) error {
	b.section(fmt.Sprintf("%s: size of the zTOCs", l.name))
	b.line("  0.9, spans of 4 MiB          %12d bytes", len(x.old))
	for _, v := range []struct {
		mib  int
		want want
	}{{4, want{20, 32}}, {1, want{7, 10}}} {
		y, err := b.index(ctx, l, "--compact-span-size", fmt.Sprint(v.mib<<20))
		if err != nil {
			return err
		}
		ratio := float64(len(x.old)) / float64(len(y.small))
		b.line("  compact, spans of %d MiB      %12d bytes, %.1f times smaller", v.mib, len(y.small), ratio)
		b.goal(fmt.Sprintf("compact zTOC of %d MiB spans, times smaller than 0.9 of 4 MiB spans", v.mib), l, stat.Series{ratio}, v.want)
	}
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

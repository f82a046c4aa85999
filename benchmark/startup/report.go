// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/seekoci/seekoci/benchmark/internal/node"
	"github.com/seekoci/seekoci/benchmark/internal/stat"
)

// figures are the measurements that are not a pull and a run.
type figures struct {
	memory    memory
	read      struct{ native, lazy reading }
	warmth    struct{ native, lazy warmths }
	scattered struct{ spans, old, compact randoms }
	whole     convergence
	together  stat.Series // seconds of all containers of the section many
}

// memory is the daemon's after the first run, in MiB.
type memory struct{ resident, peak, anonymous stat.Series }

// goals are the figures that something is to reach.
func (b *bench) goals() stat.Goals {
	l, warm := &b.legs, b.legs.overlayfs.second
	least, leastLine := b.bound.of(b.bound.loopback, warm), b.bound.of(b.bound.line, warm)
	var touched, fromDisk stat.Series
	for i, t := range b.bound.fromDisk {
		if i < len(l.quiet.layers) {
			touched = append(touched, l.quiet.layers[i]*1e6/b.bound.touched.compressed)
			fromDisk = append(fromDisk, l.quiet.layers[i]*1e6/t.compressed)
		}
	}
	var together stat.Series
	for i := range min(len(b.together), len(l.compact.first)) {
		together = append(together, b.together[i]/(containers*l.compact.first[i]))
	}
	native, lazy := &b.warmth.native, &b.warmth.lazy
	const compact, old = "compact", "0.9"
	all := stat.Goals{
		{What: "pull + first run: overlayfs, full pull / lazy", Of: compact, Got: l.overlayfs.ready.Ratio(l.compact.ready), Want: stat.Want{Floor: 4.5, Goal: 7}},
		{What: "pull + first run: overlayfs, full pull / lazy", Of: old, Got: l.overlayfs.ready.Ratio(l.old.ready), Want: stat.Want{Floor: 4.5, Goal: 7}},
		{What: "pull + first run / lower bound", Of: compact, Got: l.compact.ready.Ratio(least), Want: stat.Want{Floor: 1.9, Goal: 1.2}},
		{What: "pull + first run / lower bound", Of: old, Got: l.old.ready.Ratio(least), Want: stat.Want{Floor: 1.9, Goal: 1.2}},
		{What: "pull + first run / lower bound", Of: "profile", Got: l.profile.ready.Ratio(least), Want: stat.Want{Floor: 1.5, Goal: 1.1}},
		{What: "pull + first run / lower bound, 1 Gbit/s and 5 ms", Of: compact, Got: l.lineCompact.ready.Ratio(leastLine), Want: stat.Want{Floor: 2, Goal: 1.25}},
		{What: "pull + first run / lower bound, 1 Gbit/s and 5 ms", Of: old, Got: l.lineOld.ready.Ratio(leastLine), Want: stat.Want{Floor: 2, Goal: 1.25}},
		{What: "bytes fetched / compressed bytes of the pages read on overlayfs", Of: compact, Got: fromDisk, Want: stat.Want{Floor: 2, Goal: 1.2}},
		{What: "bytes fetched / compressed bytes of the pages touched, no readahead", Of: compact, Got: touched, Want: stat.Want{Floor: 2, Goal: 1.2}},
		{What: "cold random 4 KiB, time: 4 MiB span fetched, by klauspost / ours", Of: compact, Got: b.scattered.spans.seconds.Ratio(b.scattered.compact.seconds), Want: stat.Want{Floor: 8, Goal: 20}},
		{What: "cold random 4 KiB, bytes fetched: 4 MiB span / ours", Of: compact, Got: b.scattered.spans.bytes.Ratio(b.scattered.compact.bytes), Want: stat.Want{Floor: 8, Goal: 20}},
		{What: "pull + read every file, cold: lazy / overlayfs, full pull", Of: compact, Got: b.read.lazy.all.Ratio(b.read.native.all), Want: stat.Want{Floor: 1.2, Goal: 0.8}},
		{What: "all local and verified, 1 Gbit/s / plain download", Of: compact, Got: b.whole.lazy.Ratio(b.whole.download), Want: stat.Want{Floor: 1.4, Goal: 1.1}},
		{What: "find with stat, second walk: lazy / overlayfs", Of: compact, Got: lazy.walk.Ratio(native.walk), Want: stat.Want{Floor: 1.5, Goal: 1.1}},
		{What: "warm sequential read, speed: lazy / overlayfs", Of: compact, Got: native.sequential.Ratio(lazy.sequential), Want: stat.Want{Floor: 0.4, Goal: 1}},
		{What: "warm random 4 KiB, speed: lazy / overlayfs", Of: compact, Got: native.random.Ratio(lazy.random), Want: stat.Want{Floor: 0.65, Goal: 1}},
		{What: "resident memory of the daemon after the first run, MiB", Of: compact, Got: b.memory.resident, Want: stat.Want{Floor: 120, Goal: 60}},
		{What: fmt.Sprintf("%d containers started cold together / %d times one", containers, containers), Of: compact, Got: together, Want: stat.Want{Floor: 0.5, Goal: 0.35}},
	}
	var measured stat.Goals
	for _, g := range all {
		if len(g.Got) > 0 {
			measured = append(measured, g)
		}
	}
	return measured
}

// print prints where and how it was measured, the goals, and what is behind them.
func (b *bench) print(out io.Writer) error {
	var w strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&w, format+"\n", args...) }
	line("command: startup -rounds %d -layer %s %s", b.rounds, strings.Join(baseNames(b.layers), " -layer "), strings.Join(b.args, " "))
	line("machine: %s", stat.Machine())
	line("containerd %s, gzip by %s; registry on loopback, caches dropped before each pull", b.containerd.Version, cmp.Or(node.Decompressor(), "containerd itself"))
	line("image: %d layers, %.1f MB, %.1f MB of files; the containers printed %q", len(b.image.Layers), float64(b.image.CompressedSize())/1e6, float64(b.image.TarSize)/1e6, b.output)
	line("median of %d (minimum-maximum), seconds unless said otherwise; ratios round by round\n", b.rounds)
	w.WriteString(b.goals().Table("zTOC"))
	b.printLegs(line)
	b.printBounds(line)
	b.printFigures(line)
	_, err := io.WriteString(out, w.String())
	return err
}

// printLegs prints what pulls and runs took.
func (b *bench) printLegs(line func(string, ...any)) {
	l := &b.legs
	const row = "%-30s %20s %20s %20s %20s %24s %24s %24s"
	line("\n"+row, "pull and run", "pull", "first run", "pull + first run", "second run", "layer MB fetched", "MB sent by registry", "requests for spans")
	for _, l := range []*leg{&l.overlayfs, &l.old, &l.compact, &l.profile, &l.quiet, &l.lineOverlayfs, &l.lineOld, &l.lineCompact, &l.lineProf, &l.noRange} {
		if len(l.ready) > 0 {
			line(row, l.name, l.pull, l.first, l.ready, l.second, l.layers.Format("%.1f"), l.sent.Format("%.1f"), l.requests.Format("%.0f"))
		}
	}
	line("bytes and requests until the end of the first run")
}

// printBounds prints the lower bounds and what they are made of.
func (b *bench) printBounds(line func(string, ...any)) {
	bs, warm := &b.bound, b.legs.overlayfs.second
	if len(bs.rate) > 0 {
		line("\nlower bound: warm run %s + max(%d round trips + compressed bytes touched / bandwidth, bytes touched / (igzip %.0f MB/s x processors))",
			warm, trips, bs.rate.Median()/1e6)
		for _, n := range []struct {
			name string
			s    speeds
		}{{"loopback", bs.loopback}, {"1 Gbit/s and 5 ms", bs.line}} {
			if len(n.s.rtt) > 0 {
				line("  %-20s %.2f ms round trip, %.0f MB/s, so %s", n.name, n.s.rtt.Median()*1e3, n.s.bandwidth.Median()/1e6, bs.of(n.s, warm))
			}
		}
	}
	if bs.touched.uncompressed > 0 {
		line("touched by the first run: %.1f MB of file pages, %.1f MB of the layers (no readahead)", bs.touched.uncompressed/1e6, bs.touched.compressed/1e6)
	}
	for _, t := range bs.fromDisk {
		line("read by a run on overlayfs with cold caches: %.1f MB of file pages, %.1f MB of the layers (readahead of %s)", t.uncompressed/1e6, t.compressed/1e6, bs.diskReadAhead)
	}
}

// printFigures prints everything else.
func (b *bench) printFigures(line func(string, ...any)) {
	if r := &b.read; len(r.lazy.all) > 0 {
		line("\nread every file once, cold: %s", b.sums.bytes)
		line("  %-22s %20s, with the pull %20s", "overlayfs", r.native.alone, r.native.all)
		line("  %-22s %20s, with the pull %20s", "lazy, compact", r.lazy.alone, r.lazy.all)
	}
	if s := &b.scattered; len(s.spans.seconds) > 0 {
		line("\n4 KiB at each of %d random offsets, nothing there yet: ms, KB fetched", randomReads)
		for _, r := range []struct {
			name string
			of   randoms
		}{{"a 4 MiB span, klauspost", s.spans}, {"lazy, 0.9", s.old}, {"lazy, compact", s.compact}} {
			line("  %-24s %20s %28s", r.name, scaled(r.of.seconds, 1e3).Format("%.2f"), scaled(r.of.bytes, 1e-3).Format("%.1f"))
		}
	}
	if c := &b.whole; len(c.lazy) > 0 {
		line("\nall layers local and verified over the line: %s; plain download %s", c.lazy, c.download)
	}
	if w := &b.warmth; len(w.lazy.walk) > 0 {
		_, p := b.content.largest()
		line("\nwarm (%s)", b.sums.names)
		line("  %-22s %24s %28s %28s", "", "find with stat", fmt.Sprintf("read %.0f MB, GB/s", float64(p.size)/1e6), "random 4 KiB, µs")
		for _, r := range []struct {
			name string
			of   warmths
		}{{"overlayfs", w.native}, {"lazy, compact", w.lazy}} {
			var speed stat.Series
			for _, s := range r.of.sequential {
				speed = append(speed, float64(p.size)/1e9/s)
			}
			line("  %-22s %24s %28s %28s", r.name, r.of.walk.Format("%.3f"), speed, scaled(r.of.random, 1e6))
		}
	}
	if m := &b.memory; len(m.resident) > 0 {
		line("\nmemory of the daemon after the first run, MiB: resident %s, of it anonymous %s; at most %s", m.resident.Format("%.1f"), m.anonymous.Format("%.1f"), m.peak.Format("%.1f"))
	}
	if len(b.together) > 0 {
		line("\n%d containers started cold together: %s", containers, b.together)
	}
}

// scaled is a series in another unit.
func scaled(s stat.Series, by float64) stat.Series {
	to := make(stat.Series, len(s))
	for i, v := range s {
		to[i] = v * by
	}
	return to
}

func baseNames(paths []string) []string {
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = filepath.Base(p)
	}
	return names
}

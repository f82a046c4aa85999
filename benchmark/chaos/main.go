// SPDX-License-Identifier: Apache-2.0

// Chaos injects faults into a node, a registry and a disk, while containers read
// everything and compare every byte of it with the truth.
//
//	make chaos                                # a minute
//	make chaos CHAOS='-for 10m -seed 7'       # longer, and the same faults each time
//	make chaos CHAOS='-kinds kill,holder'     # some kinds of faults
//	make chaos CHAOS='-kinds -full,-corrupt'  # all kinds but some
//	make chaos CHAOS='-for 1h -often kill'    # one of them ten times as often
//
// It runs containerd, the snapshotter's own daemon and a registry, each a real one, and
// containers of three images made for it: several layers, one of them shared, zTOCs 0.9 and
// compact ones, hard links, whiteouts, many small files and some large ones. In each container a
// checker looks at files in seven ways: stat, readdir and readlink, small files, whole files,
// random reads, mappings, O_DIRECT. Meanwhile three lanes of faults go on, beside one another:
// of the node (daemon, holder and containerd are killed and started, the disk is full, the
// cache is forgotten, its files are damaged), of the registry (a proxy that spoils its answers) and of users
// (images removed and pulled, containers replaced and run). In the end all is well again,
// every container reads everything once more, and all is removed: nothing may be left.
//
// The types to know are schedule, which says what happens, run, which lets it happen, and
// timeline, which judges failures. Its explain says what an operation may fail of, and nothing else
// is explained: above all, no wrong byte ever is, and no error of bytes that the disk had
// when the registry began to fail.
//
// # Replay
//
// A seed gives each lane the same sequence of faults, with the same pauses and the same duration,
// and the images the same bytes. Not determined by it are: how the lanes meet one
// another, as each step waits for the one before (a daemon's start takes as long as it takes); which
// requests meet a spoilt answer, as it is drawn for each as it comes; the order in which
// processes run.
//
// # Limits
//
// Root, /dev/fuse, overlayfs, containerd and runc, as for the demo; 3 GB in TMPDIR. The page cache of the
// whole machine is dropped now and then.
//
// # Decisions
//
//   - Real programs and nothing of the daemon's packages but the format of zTOCs: what
//     is looked at is what a container sees.
//   - The checkers are in the containers, the judge is outside: a checker says what failed and
//     when, and the judge, who knows what was wrong then, whether it may.
//   - What was on disk is read from the daemon's own state files when answers begin to be
//     spoilt. Otherwise every error in an outage would be explained, and a daemon that goes to the registry for
//     what it has would pass.
//   - The daemon's files are damaged while it is down. Bytes that it has
//     checked since its start it may serve without another look.
//   - Of what there are two, one stays whole: a layer's state, whose slot can be had from nowhere else, and the
//     metadata database, which is only damaged where its copy is as new. Its damage is one that it can notice: there is no checksum but of
//     its first pages. With both gone the daemon is to refuse to start, and gets them back.
//   - For some steps each, daemons have a cache smaller than the images, and a mirror that is tried first. What is on disk is
//     not looked at then, as it may go at any time; what the mirror alone does wrong explains nothing.
//   - When daemon and holder are killed at once, containers lose the mount, as documented. They
//     are replaced, and counted apart.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/benchmark/internal/sandbox"
	"github.com/seekoci/seekoci/benchmark/internal/stat"
)

func main() {
	var o options
	var kinds, often, out string
	flag.Uint64Var(&o.seed, "seed", 0, "`number` that decides the faults; 0 means another one each time")
	flag.DurationVar(&o.length, "for", 0, "`how long` faults are injected (default 1m, without -faults)")
	flag.Int64Var(&o.faults, "faults", 0, "`how many` faults are injected; 0 means as many as come")
	flag.StringVar(&kinds, "kinds", "", "comma-separated `kinds` of faults, or -kind for all but that: "+join(allKinds()))
	flag.StringVar(&often, "often", "", "`kind` of fault that comes ten times as often as it does otherwise")
	flag.StringVar(&o.bin, "bin", "bin", "`directory` of soci, soci-snapshotter-grpc, checker and probe")
	flag.StringVar(&o.containerd, "containerd", "", "`directory` of containerd and ctr; that on PATH by default")
	flag.BoolVar(&o.race, "race", false, "soci-snapshotter-grpc was built with the race detector")
	flag.BoolVar(&o.all, "v", false, "say what fails and is explained, too")
	flag.StringVar(&out, "o", "", "`file` that gets the report, too")
	flag.Parse()
	o.often = kind(often)
	os.Exit(start(o, kinds, out))
}

// start runs in the sandbox, and returns the exit code.
func start(o options, kinds, out string) int {
	fail := func(err error) int {
		fmt.Fprintf(os.Stderr, "chaos: %v\n", err)
		return 1
	}
	var err error
	o.kinds, err = parseKinds(kinds)
	if err == nil && o.often != "" && !slices.Contains(o.kinds, o.often) {
		err = fmt.Errorf("no fault of the kind %q can come often: it does not come at all", o.often)
	}
	if err != nil || flag.NArg() > 0 {
		if err != nil {
			fail(err)
		}
		flag.Usage()
		return 2
	}
	if err := sandbox.Check(); err != nil {
		return fail(err)
	}
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return fail(err)
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano()) % 1e6
	}
	if o.length == 0 && o.faults == 0 {
		o.length = time.Minute
	}
	return sandbox.Run(sandbox.Options{}, func(dir string) int {
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
		defer stop()
		rep, err := chaos(ctx, o, dir)
		var text strings.Builder
		header(&text, o)
		rep.write(&text)
		fmt.Print(text.String())
		if out != "" {
			if err := os.WriteFile(out, []byte(text.String()), 0o644); err != nil {
				return fail(err)
			}
		}
		switch {
		case err != nil:
			return fail(err)
		case !rep.ok():
			return 1
		}
		return 0
	})
}

// chaos runs once, with everything below dir.
func chaos(ctx context.Context, o options, dir string) (*report, error) {
	r := &run{opts: o, dir: dir, checker: filepath.Join(o.bin, "checker"), report: newReport(os.Stderr)}
	r.report.all = o.all
	r.report.note("seed", fmt.Sprint(o.seed))
	return r.report, r.do(ctx)
}

// header says what has been run, and where.
func header(w *strings.Builder, o options) {
	commit := "unknown"
	if p, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output(); err == nil {
		commit = strings.TrimSpace(string(p))
	}
	fmt.Fprintf(w, "%s, commit %s\ncommand: chaos -seed %d", time.Now().Format(time.DateOnly), commit, o.seed)
	if o.length > 0 {
		fmt.Fprintf(w, " -for %v", o.length)
	}
	if o.faults > 0 {
		fmt.Fprintf(w, " -faults %d", o.faults)
	}
	if len(o.kinds) < len(allKinds()) {
		fmt.Fprintf(w, " -kinds %s", join(o.kinds))
	}
	if o.often != "" {
		fmt.Fprintf(w, " -often %s", o.often)
	}
	fmt.Fprintf(w, "\nmachine: %s\n", stat.Machine())
}

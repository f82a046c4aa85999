// SPDX-License-Identifier: Apache-2.0

// Startup measures how long it takes from nothing to the end of a container's
// first run, with a full pull and with a lazy one, and how long indexing the
// image takes.
//
//	go build -o bin/startup ./benchmark/startup
//	benchmark/startup/torch.sh DIR
//	bin/startup -layer DIR/base.tar.gz -layer DIR/torch.tar.gz python3 -c 'import torch; print(torch.__version__)'
//
// The rounds interleave: each makes one fresh node that pulls in full and one that
// pulls lazily, and runs the same container twice on both. Caches are dropped
// before each pull. It fails unless all containers print the same.
//
// # Limits
//
// As for the demo: root, /dev/fuse, overlayfs, containerd, runc; the registry is on the loopback interface.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
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

func main() {
	var b bench
	flag.StringVar(&b.bin, "bin", "bin", "directory of soci and soci-snapshotter-grpc")
	flag.IntVar(&b.rounds, "rounds", 3, "rounds, each with a full and a lazy pull")
	flag.Var(&b.layers, "layer", "gzip file of a layer, lowest first; may be repeated")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: startup -layer FILE [-layer FILE ...] [-rounds N] [-bin DIR] COMMAND [ARG ...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	b.args = flag.Args()
	if len(b.layers) == 0 || len(b.args) == 0 || b.rounds < 1 {
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

// SPDX-License-Identifier: Apache-2.0

// Demo shows on one machine what lazy loading does: the same image, pulled in
// full by one node and lazily by another, the same containers on both, and a table of how long it took and what was fetched.
//
//	make demo
//
// The image is made of the machine's own Go tree. Three nodes play the parts of
// a build machine, which indexes and pushes, and of two fresh machines that have
// never seen the image. They share one registry; the page cache is emptied before each pull.
//
// # Limits
//
// Root, /dev/fuse, overlayfs, containerd and runc; one sentence says what is missing. The registry is on the
// loopback interface, so a full pull is as fast as it ever gets: across a real network lazy loading gains more.
//
// # Decisions
//
//   - Whole nodes in a sandbox, not the host's containerd: nothing to configure, nothing to clean up, nothing to break.
//   - The commands are those a user would type, and are printed.
//   - Both nodes must print the same, or the demo fails.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/benchmark/internal/sandbox"
)

func main() {
	bin := flag.String("bin", "bin", "directory of soci and soci-snapshotter-grpc")
	flag.Parse()
	if err := sandbox.Check(); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
	os.Exit(sandbox.Run(sandbox.Options{}, func(dir string) int {
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
		defer stop()
		err := run(ctx, dir, *bin, os.Stdout)
		switch {
		case ctx.Err() != nil:
			fmt.Fprintln(os.Stderr, "demo: interrupted")
			return 130
		case err != nil:
			fmt.Fprintf(os.Stderr, "demo: %v\n", err)
			return 1
		}
		return 0
	}))
}

// run runs the demo and prints the table.
func run(ctx context.Context, dir, bin string, out io.Writer) error {
	s, err := newStage(dir, bin, out)
	if err != nil {
		return err
	}
	defer s.registry.Close()
	if err := s.makeImage(ctx); err != nil {
		return err
	}
	if err := s.index(ctx); err != nil {
		return fmt.Errorf("index the image: %w", err)
	}
	full, err := s.full(ctx)
	if err != nil {
		return fmt.Errorf("full pull: %w", err)
	}
	lazy, err := s.lazy(ctx)
	if err != nil {
		return fmt.Errorf("lazy pull: %w", err)
	}
	if err := same(full, lazy); err != nil {
		return err
	}
	return table(out, full, lazy)
}

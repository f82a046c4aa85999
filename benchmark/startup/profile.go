// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/benchmark/internal/node"
)

// record makes the image with a recorded profile: as compact, run once on a node, whose profile is pushed.
func (b *bench) record(ctx context.Context) error {
	if !b.wanted["profile"] {
		return nil
	}
	if err := b.makeIndex(ctx, repoProfile, "--compact"); err != nil {
		return err
	}
	ref := b.registry.Host() + "/" + repoProfile
	return b.node(ctx, "", func(n *node.Node) error {
		if err := n.Pull(ctx, ref, node.Soci); err != nil {
			return err
		}
		if _, err := b.runOnce(ctx, n, ref, node.Soci); err != nil {
			return err
		}
		// It writes down what it has noted when it stops, at the latest.
		if err := n.StopSnapshotter(unix.SIGTERM); err != nil {
			return err
		}
		if err := n.StartSnapshotter(ctx); err != nil {
			return err
		}
		for _, args := range [][]string{{"prefetch", "record", "--plain-http", ref}, {"push", "--plain-http", ref}} {
			if _, err := n.Soci(ctx, args...); err != nil {
				return fmt.Errorf("soci %v: %w", args, err)
			}
		}
		return nil
	})
}

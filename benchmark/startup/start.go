// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/seekoci/seekoci/benchmark/internal/node"
)

// native does on overlayfs all that is done lazily elsewhere, on one node: the full pull is what takes long.
func (b *bench) native(ctx context.Context) error {
	l, ref := &b.legs.overlayfs, b.registry.Host()+"/"+repoOld
	err := b.node(ctx, "", func(n *node.Node) error {
		if err := b.pullAndRun(ctx, n, l, ref, node.Overlayfs); err != nil {
			return err
		}
		if err := b.runAgain(ctx, n, l, ref, node.Overlayfs); err != nil {
			return err
		}
		if b.wanted["bytes"] {
			if err := b.readFromDisk(ctx, n, ref); err != nil {
				return err
			}
		}
		if b.wanted["read"] {
			if err := node.DropCaches(); err != nil {
				return err
			}
			if err := b.readFiles(ctx, n, ref, node.Overlayfs, &b.read.native, l.pull[len(l.pull)-1]); err != nil {
				return err
			}
		}
		if b.wanted["warm"] {
			return b.warm(ctx, n, ref, node.Overlayfs, &b.warmth.native)
		}
		return nil
	})
	return named(l, err)
}

// overlayfs pulls in full and runs.
func (b *bench) overlayfs(ctx context.Context, l *leg, ref string) error {
	return named(l, b.node(ctx, "", func(n *node.Node) error {
		return b.pullAndRun(ctx, n, l, ref, node.Overlayfs)
	}))
}

// served pulls lazily and runs, and looks at the daemon's memory and at what is warm.
func (b *bench) served(ctx context.Context) error {
	l, ref := &b.legs.compact, b.registry.Host()+"/"+repoCompact
	return named(l, b.node(ctx, "", func(n *node.Node) error {
		if err := b.pullAndRun(ctx, n, l, ref, node.Soci); err != nil {
			return err
		}
		if err := b.memory.add(n); err != nil {
			return err
		}
		if err := b.runAgain(ctx, n, l, ref, node.Soci); err != nil || !b.wanted["warm"] {
			return err
		}
		return b.warm(ctx, n, ref, node.Soci, &b.warmth.lazy)
	}))
}

// lazy pulls lazily and runs.
func (b *bench) lazy(ctx context.Context, l *leg, ref, config string) error {
	return named(l, b.node(ctx, config, func(n *node.Node) error {
		return b.pullAndRun(ctx, n, l, ref, node.Soci)
	}))
}

func named(l *leg, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", l.name, err)
	}
	return nil
}

// add asks the kernel about the snapshotter's memory.
func (m *memory) add(n *node.Node) error {
	now, err := n.SnapshotterMemory()
	if err != nil {
		return err
	}
	const mib = 1 << 20
	m.resident = append(m.resident, float64(now.Resident)/mib)
	m.peak = append(m.peak, float64(now.Peak)/mib)
	m.anonymous = append(m.anonymous, float64(now.Anonymous)/mib)
	return nil
}

// pullAndRun pulls and runs the container.
func (b *bench) pullAndRun(ctx context.Context, n *node.Node, l *leg, ref, snapshotter string) error {
	sent := b.sent()
	if err := l.pull.Time(func() error { return n.Pull(ctx, ref, snapshotter) }); err != nil {
		return err
	}
	first, err := b.runOnce(ctx, n, ref, snapshotter)
	if err != nil {
		return err
	}
	l.first = append(l.first, first)
	l.ready = append(l.ready, l.pull[len(l.pull)-1]+first)
	l.sent = append(l.sent, float64(b.sent()-sent)/1e6)
	if snapshotter == node.Soci {
		return l.count(ctx, n)
	}
	return nil
}

// runAgain runs the container once more, with everything in the page cache.
func (b *bench) runAgain(ctx context.Context, n *node.Node, l *leg, ref, snapshotter string) error {
	second, err := b.runOnce(ctx, n, ref, snapshotter)
	if err != nil {
		return err
	}
	l.second = append(l.second, second)
	return nil
}

// runOnce runs the container and returns the seconds it took.
func (b *bench) runOnce(ctx context.Context, n *node.Node, ref, snapshotter string) (float64, error) {
	r, err := n.Run(ctx, node.Container{Image: ref, Snapshotter: snapshotter, Args: b.args})
	if err != nil {
		return 0, err
	}
	if b.output == "" {
		b.output = r.Output
	}
	if r.Output != b.output {
		return 0, fmt.Errorf("the container printed %q, another one %q", r.Output, b.output)
	}
	return r.Total.Seconds(), nil
}

// count asks the snapshotter what it has fetched.
func (l *leg) count(ctx context.Context, n *node.Node) error {
	m, err := n.Metrics(ctx)
	if err != nil {
		return err
	}
	if m.Decisions("lazy") == 0 || m.BytesFetched() == 0 {
		return errors.New("nothing was fetched by the snapshotter: the image was not pulled lazily")
	}
	l.layers = append(l.layers, float64(m.BytesFetched())/1e6)
	l.requests = append(l.requests, float64(m.Requests()))
	return nil
}

// sent is the number of bytes that have left the registry so far.
func (b *bench) sent() int64 {
	s := b.registry.Stats()
	return s.Manifest.Bytes + s.Blob.Bytes + s.Range.Bytes + s.Referrers.Bytes + s.Tags.Bytes + s.Other.Bytes
}

// containers is how many start at once in many.
const containers = 10

// many starts containers on a node that has nothing yet, all at once.
func (b *bench) many(ctx context.Context) error {
	ref := b.registry.Host() + "/" + repoCompact
	if !b.wanted.any("start", "warm") { // which have started one container alone
		if err := b.lazy(ctx, &b.legs.compact, ref, ""); err != nil {
			return err
		}
	}
	err := b.node(ctx, "", func(n *node.Node) error {
		if err := n.Pull(ctx, ref, node.Soci); err != nil {
			return err
		}
		return b.together.Time(func() error {
			g, gctx := errgroup.WithContext(ctx)
			for range containers {
				g.Go(func() error {
					_, err := b.runOnce(gctx, n, ref, node.Soci)
					return err
				})
			}
			return g.Wait()
		})
	})
	if err != nil {
		return fmt.Errorf("%d containers: %w", containers, err)
	}
	return nil
}

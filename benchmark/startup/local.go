// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/seekoci/seekoci/benchmark/internal/node"
	"github.com/seekoci/seekoci/benchmark/internal/stat"
)

// How long an image may take to become local, and how often the daemon is asked.
const (
	localTimeout = 5 * time.Minute
	localPoll    = 50 * time.Millisecond
)

// convergence is how long it takes until everything is there, over the line.
type convergence struct {
	lazy     stat.Series // seconds from the beginning of the pull until all layers are verified
	download stat.Series // seconds of a plain download of the layers
}

// local pulls lazily over the line and waits until the background fetch is through.
func (b *bench) local(ctx context.Context) error {
	seconds, err := b.download(ctx, b.line.Host())
	if err != nil {
		return err
	}
	b.whole.download = append(b.whole.download, seconds)
	ref := b.line.Host() + "/" + repoCompact
	err = b.node(ctx, "", func(n *node.Node) error {
		return b.whole.lazy.Time(func() error {
			if err := n.Pull(ctx, ref, node.Soci); err != nil {
				return err
			}
			return complete(ctx, n)
		})
	})
	if err != nil {
		return fmt.Errorf("until all is local: %w", err)
	}
	return nil
}

// complete waits until the snapshotter has verified all lazy layers.
func complete(ctx context.Context, n *node.Node) error {
	ctx, cancel := context.WithTimeout(ctx, localTimeout)
	defer cancel()
	tick := time.NewTicker(localPoll)
	defer tick.Stop()
	for {
		m, err := n.Metrics(ctx)
		if err != nil {
			return err
		}
		lazy, ok := m.Decisions("lazy"), m.Completed("verified")
		switch {
		case lazy == 0:
			return errors.New("the image was not pulled lazily")
		case m.Completed("mismatch")+m.Completed("unverifiable") > 0:
			return errors.New("a layer has not been verified")
		case ok >= lazy:
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d layers are complete: %w", ok, lazy, ctx.Err())
		}
	}
}

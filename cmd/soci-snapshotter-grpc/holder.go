// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/fs/hold"
	"github.com/seekoci/seekoci/snapshotter"
)

// holderCommand keeps the mount where the daemon's own holder would not outlive it.
func holderCommand() *cli.Command {
	return &cli.Command{
		Name:  "holder",
		Usage: "keep the mount of the daemon at --root while that is away, until killed; the daemon starts one by itself if there is none",
		Action: func(_ context.Context, cmd *cli.Command) error {
			root, err := filepath.Abs(cmd.String("root"))
			if err != nil {
				return fmt.Errorf("root %s: %w", cmd.String("root"), err)
			}
			return hold.Serve(holderDir(root), hold.Stay)
		},
	}
}

// unmountCommand takes away what a daemon has left for the next one.
func unmountCommand() *cli.Command {
	return &cli.Command{
		Name:  "unmount",
		Usage: "take away the mount that the stopped daemon at --root has left; containers that use it lose their lazy layers",
		Action: func(ctx context.Context, cmd *cli.Command) error {
			root, err := filepath.Abs(cmd.String("root"))
			if err != nil {
				return fmt.Errorf("root %s: %w", cmd.String("root"), err)
			}
			return snapshotter.Unmount(ctx, root, func() error { return hold.Release(holderDir(root)) })
		},
	}
}

// leave closes the snapshotter, and then lets the holder guard the mount. If the first has
// not ended within limit, requests may still be taken here, and a guard must not take them,
// too: then the end of this process is what tells the holder.
func leave(snapshotter, holder func() error, limit time.Duration) error {
	done := make(chan error, 1)
	go func() { done <- snapshotter() }()
	select {
	case err := <-done:
		return errors.Join(err, holder())
	case <-time.After(limit):
		return fmt.Errorf("close snapshotter: not done after %v", limit)
	}
}

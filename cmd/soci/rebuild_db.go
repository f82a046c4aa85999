// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/cmd/internal/artifacts"
	"github.com/seekoci/seekoci/cmd/internal/store"
	"github.com/seekoci/seekoci/index"
)

func rebuildDBCommand() *cli.Command {
	return &cli.Command{
		Name:    "rebuild-db",
		Aliases: []string{"rebuild_db"}, // as the incumbent's documentation spells it
		Usage:   "make artifacts.db agree with the content store",
		Action:  action(rebuildDB),
	}
}

func rebuildDB(ctx context.Context, e *env, _ *cli.Command) error {
	st, err := e.store(ctx)
	if err != nil {
		return err
	}
	known, err := e.manifests(ctx)
	if err != nil {
		return err
	}
	db, err := e.db()
	if err != nil {
		return err
	}
	if _, err := db.Rebuild(ctx, st, known); err != nil {
		return fmt.Errorf("rebuild %s: %w", db.Path, err)
	}
	return nil
}

// manifests tells of the image manifests in containerd which image and
// platform they are of. An image that cannot be read is left out, with a warning.
func (e *env) manifests(ctx context.Context) (map[digest.Digest]artifacts.Image, error) {
	content, err := e.images(ctx)
	if err != nil {
		return nil, err
	}
	c, err := e.containerd(ctx)
	if err != nil {
		return nil, err
	}
	list, err := c.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	// A manifest may be in several images: the one that was indexed comes last and counts.
	slices.SortStableFunc(list, func(a, b images.Image) int {
		return cmp.Compare(len(a.Labels[store.LabelIndex]), len(b.Labels[store.LabelIndex]))
	})
	known := make(map[digest.Digest]artifacts.Image)
	for _, img := range list {
		manifests, err := index.Manifests(ctx, content, img.Target)
		if ctx.Err() != nil {
			return nil, err
		}
		if err != nil {
			fmt.Fprintf(e.err, "soci: leave out image %s: %s\n", img.Name, oneLine(err.Error()))
			continue
		}
		for _, m := range manifests {
			known[m.Manifest.Digest] = artifacts.Image{Digest: img.Target.Digest, Platform: platforms.Format(m.Platform)}
		}
	}
	return known, nil
}

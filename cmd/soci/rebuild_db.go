// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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
	c, err := e.containerd(ctx)
	if err != nil {
		return err
	}
	all, err := c.NamespaceService().List(ctx)
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	known := make(map[digest.Digest]artifacts.Image)
	for _, n := range all {
		if err := e.manifests(namespaces.WithNamespace(ctx, n), known); err != nil {
			return err
		}
	}
	db, err := e.db()
	if err != nil {
		return err
	}
	var content artifacts.Content = st
	if !e.useSOCI {
		content = &everywhere{st, all, make(map[digest.Digest]string)}
	}
	if _, err := db.Rebuild(ctx, content, known); err != nil {
		return fmt.Errorf("rebuild %s: %w", db.Path, err)
	}
	return nil
}

// everywhere is the content of all of containerd's namespaces: each sees its own
// alone, but artifacts.db tells of all of them.
type everywhere struct {
	artifacts.Content
	namespaces []string
	in         map[digest.Digest]string // the namespace of a blob
}

// Blobs implements artifacts.Content.
func (c *everywhere) Blobs(ctx context.Context) iter.Seq2[ocispec.Descriptor, error] {
	return func(yield func(ocispec.Descriptor, error) bool) {
		for _, n := range c.namespaces {
			for desc, err := range c.Content.Blobs(namespaces.WithNamespace(ctx, n)) {
				if _, ok := c.in[desc.Digest]; ok && err == nil {
					continue
				}
				c.in[desc.Digest] = n
				if !yield(desc, err) {
					return
				}
			}
		}
	}
}

// Fetch implements artifacts.Content.
func (c *everywhere) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if n, ok := c.in[desc.Digest]; ok {
		ctx = namespaces.WithNamespace(ctx, n)
	}
	return c.Content.Fetch(ctx, desc)
}

// manifests adds to known which image and platform the image manifests in the
// context's namespace are of. An image that cannot be read is left out, with a warning.
func (e *env) manifests(ctx context.Context, known map[digest.Digest]artifacts.Image) error {
	content, err := e.images(ctx)
	if err != nil {
		return err
	}
	c, err := e.containerd(ctx)
	if err != nil {
		return err
	}
	list, err := c.ImageService().List(ctx)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	// A manifest may be in several images: the one that was indexed comes last and counts.
	slices.SortStableFunc(list, func(a, b images.Image) int {
		return cmp.Compare(len(a.Labels[store.LabelIndex]), len(b.Labels[store.LabelIndex]))
	})
	for _, img := range list {
		manifests, err := index.Manifests(ctx, content, img.Target)
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			fmt.Fprintf(e.err, "soci: leave out image %s: %s\n", img.Name, oneLine(err.Error()))
			continue
		}
		for _, m := range manifests {
			known[m.Manifest.Digest] = artifacts.Image{Digest: img.Target.Digest, Platform: platforms.Format(m.Platform)}
		}
	}
	return nil
}

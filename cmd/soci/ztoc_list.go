// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/cmd/internal/artifacts"
	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/ztoc"
)

func ztocListCommand() *cli.Command {
	return &cli.Command{
		Name:    "list",
		Aliases: []string{"ls"},
		Usage:   "list zTOCs",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "ztoc-digest", Usage: "only the zTOC with this `digest`"},
			&cli.StringFlag{Name: "image-ref", Usage: "only those of the indexes of the image `ref`"},
			&cli.StringFlag{Name: "format", Value: string(ztoc.Format09), Usage: "`form` of the zTOCs to list, 0.9 or compact"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print digests only"},
		},
		Action: action(ztocList),
	}
}

func ztocList(ctx context.Context, e *env, cmd *cli.Command) error {
	format, err := ztocFormat(cmd)
	if err != nil {
		return err
	}
	typ := artifacts.TypeZTOC
	if format == ztoc.FormatCompact {
		typ = artifacts.TypeCompact
	}
	list, err := e.recorded(typ)
	if err != nil {
		return err
	}
	keep := func(artifacts.Entry) bool { return true }
	want := digest.Digest(cmd.String("ztoc-digest"))
	if want != "" {
		if err := want.Validate(); err != nil {
			return fmt.Errorf("parse ztoc digest %q: %w", want, err)
		}
		keep = func(a artifacts.Entry) bool { return a.Digest == want }
	}
	if ref := cmd.String("image-ref"); ref != "" {
		of, err := e.ztocsOf(ctx, ref)
		if err != nil {
			return err
		}
		keep = func(a artifacts.Entry) bool { return of[a.Digest] && (want == "" || a.Digest == want) }
	}
	w := newTable(e.out)
	if !cmd.Bool("quiet") {
		w.row("DIGEST", "SIZE", "LAYER DIGEST")
	}
	for _, a := range list {
		switch {
		case !keep(a):
		case cmd.Bool("quiet"):
			w.row(a.Digest)
		default:
			w.row(a.Digest, a.Size, a.OriginalDigest)
		}
	}
	return w.flush()
}

// ztocsOf returns what the indexes of an image list, zTOCs and other artifacts.
func (e *env) ztocsOf(ctx context.Context, ref string) (map[digest.Digest]bool, error) {
	img, err := e.image(ctx, ref)
	if err != nil {
		return nil, err
	}
	indexes, err := e.recorded(artifacts.TypeIndex)
	if err != nil {
		return nil, err
	}
	st, err := e.store(ctx)
	if err != nil {
		return nil, err
	}
	of := make(map[digest.Digest]bool)
	for _, a := range indexes {
		if a.ImageDigest != img.Target.Digest {
			continue
		}
		x, err := readIndex(ctx, st, a.Digest)
		if errdefs.IsNotFound(err) {
			continue // collected since another index of the image was made
		}
		if err != nil {
			return nil, err
		}
		for _, d := range x.Layers {
			of[d.Digest] = true
		}
	}
	return of, nil
}

// readIndex reads and validates an index of a store.
func readIndex(ctx context.Context, st contentStore, dgst digest.Digest) (*index.Index, error) {
	p, err := index.ReadAll(ctx, st, ocispec.Descriptor{Digest: dgst}, index.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("read SOCI index %s: %w", dgst, err)
	}
	x, err := index.Unmarshal(p)
	if err != nil {
		return nil, fmt.Errorf("read SOCI index %s: %w", dgst, err)
	}
	return x, nil
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/cmd/internal/store"
	"github.com/seekoci/seekoci/index"
)

func createCommand() *cli.Command {
	return &cli.Command{
		Name:      "create",
		Usage:     "make a SOCI index (v1) of an image in containerd",
		ArgsUsage: "<image_ref>",
		Flags:     concat(platformFlags(), ztocFlags(), prefetchFlags()),
		Action:    action(create),
	}
}

func create(ctx context.Context, e *env, cmd *cli.Command) error {
	ref := cmd.Args().First()
	if ref == "" {
		return errors.New("source image needs to be specified")
	}
	opts, err := buildOptions(cmd)
	if err != nil {
		return err
	}
	sel, err := platformSelection(cmd)
	if err != nil {
		return err
	}
	img, err := e.image(ctx, ref)
	if err != nil {
		return err
	}
	st, err := e.indexStore(ctx)
	if err != nil {
		return err
	}
	manifests, err := sel.orHost().manifests(ctx, st, ref, img.Target)
	if err != nil {
		return err
	}
	if err := e.makeRoot(); err != nil {
		return err
	}
	ctx, release, err := e.lease(ctx)
	if err != nil {
		return err
	}
	defer release()
	if !cmd.Bool("force") {
		to, err := e.store(ctx)
		if err != nil {
			return err
		}
		opts.Reuse = e.reuse(ctx, to)
	}
	for _, m := range manifests {
		if err := e.createOne(ctx, st, img, m, opts); err != nil {
			return fmt.Errorf("index image %s for %s: %w", ref, platforms.Format(m.Platform), err)
		}
	}
	return nil
}

// createOne makes the index of one image manifest, protects it from
// containerd's garbage collector and records it.
func (e *env) createOne(ctx context.Context, st contentStore, img images.Image, m index.PlatformManifest, opts index.BuildOptions) error {
	p := e.progress(ctx)
	x, desc, err := index.Build(ctx, st, m.Manifest, index.V1, e.report(p, opts))
	p.done()
	if err != nil {
		return err
	}
	platform := platforms.Format(m.Platform)
	if !e.useSOCI {
		if err := e.labelImage(ctx, img.Name, platform, desc.Digest); err != nil {
			return err
		}
	}
	return e.record(x, desc, bound{manifest: m.Manifest.Digest, image: img.Target.Digest, platform: platform})
}

// report adds to opts the lines and bars of p.
func (e *env) report(p *progress, opts index.BuildOptions) index.BuildOptions {
	opts.OnLayer = func(r index.LayerResult) { p.println(r.String()) }
	opts.OnPrefetch = func(r index.PrefetchResult) {
		if r.Missing != "" {
			fmt.Fprintf(e.err, "soci: %s\n", r)
			return
		}
		p.println(r.String())
	}
	opts.OnProgress = p.add
	return opts
}

// labelImage makes the image in containerd keep its index alive. The label of
// the platform stays when another platform is indexed.
func (e *env) labelImage(ctx context.Context, name, platform string, dgst digest.Digest) error {
	c, err := e.containerd(ctx)
	if err != nil {
		return err
	}
	labels := map[string]string{store.LabelIndex: dgst.String(), store.LabelIndexOf(platform): dgst.String()}
	_, err = c.ImageService().Update(ctx, images.Image{Name: name, Labels: labels},
		"labels."+store.LabelIndex, "labels."+store.LabelIndexOf(platform))
	if err != nil {
		return fmt.Errorf("label image %s with its SOCI index: %w", name, err)
	}
	return nil
}

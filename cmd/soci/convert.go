// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/index"
)

// The values of --format.
const (
	formatArchive = "oci-archive"
	formatDir     = "oci-dir"
)

func convertCommand() *cli.Command {
	return &cli.Command{
		Name:      "convert",
		Usage:     "make a SOCI-enabled image (index v2) of an image",
		ArgsUsage: "<src_ref> <dest_ref>",
		Description: "Source and destination are images in containerd or, with --standalone,\n" +
			"paths of OCI layouts: the source a directory or a tar, the destination as --format says.",
		Flags: concat(platformFlags(), ztocFlags(), prefetchFlags(), []cli.Flag{
			&cli.BoolFlag{Name: "standalone", Usage: "convert an OCI layout, without containerd"},
			&cli.StringFlag{Name: "format", Value: formatArchive, Usage: "`form` of the standalone destination, oci-archive or oci-dir"},
		}),
		Action: action(convert),
	}
}

func convert(ctx context.Context, e *env, cmd *cli.Command) error {
	src, dest := cmd.Args().Get(0), cmd.Args().Get(1)
	if src == "" {
		return errors.New("source image needs to be specified")
	}
	if dest == "" {
		return errors.New("destination image needs to be specified")
	}
	opts, err := buildOptions(cmd)
	if err != nil {
		return err
	}
	sel, err := platformSelection(cmd)
	if err != nil {
		return err
	}
	switch format := cmd.String("format"); format {
	case formatArchive, formatDir:
		if cmd.Bool("standalone") {
			return e.convertLayout(ctx, src, dest, format, sel, opts)
		}
	default:
		return fmt.Errorf("unknown format %q: expect %s or %s", format, formatArchive, formatDir)
	}
	if err := checkDestination(dest); err != nil {
		return err
	}
	return e.convertImage(ctx, cmd, sel, opts)
}

// checkDestination demands a name that an image can be tagged with.
func checkDestination(dest string) error {
	const want = `the destination image must be a tagged ref of the form "registry/repository:tag"`
	named, err := reference.ParseNormalizedNamed(dest)
	if err != nil {
		return fmt.Errorf("%s: %q: %w", want, dest, err)
	}
	if _, ok := named.(reference.Digested); ok {
		return fmt.Errorf("%s: %q has a digest", want, dest)
	}
	if _, ok := named.(reference.Tagged); !ok {
		return fmt.Errorf("%s: %q has no tag", want, dest)
	}
	return nil
}

// convertImage converts an image of containerd to another.
func (e *env) convertImage(ctx context.Context, cmd *cli.Command, sel selection, opts index.BuildOptions) error {
	src, dest := cmd.Args().Get(0), cmd.Args().Get(1)
	img, err := e.image(ctx, src)
	if err != nil {
		return err
	}
	st, err := e.convertStore(ctx)
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
		if opts.Reuse, err = e.reusable(ctx); err != nil {
			return err
		}
	}
	p := e.progress(ctx)
	res, err := index.Convert(ctx, st, img.Target, sel.targets(img.Target), e.report(p, opts))
	p.done()
	if err != nil {
		return fmt.Errorf("convert image %s: %w", src, err)
	}
	if err := e.nameImage(ctx, dest, res.Index); err != nil {
		return err
	}
	for _, c := range res.Platforms {
		b := bound{manifest: c.Manifest.Digest, image: res.Index.Digest, platform: platforms.Format(c.Platform)}
		if err := e.record(c.Index, c.SOCI, b); err != nil {
			return err
		}
	}
	return nil
}

// reusable is the reuse of zTOCs that are in containerd and in the content store.
func (e *env) reusable(ctx context.Context) (reuseFunc, error) {
	images, err := e.images(ctx)
	if err != nil {
		return nil, err
	}
	to, err := e.store(ctx)
	if err != nil {
		return nil, err
	}
	return e.reuse(ctx, images, to), nil
}

// targets are the platforms to convert: for an image index the host's where s
// says nothing, for a single manifest its own.
func (s selection) targets(image ocispec.Descriptor) []ocispec.Platform {
	if images.IsManifestType(image.MediaType) {
		return s.list
	}
	return s.orHost().list
}

// nameImage points the image name of containerd at target.
func (e *env) nameImage(ctx context.Context, name string, target ocispec.Descriptor) error {
	c, err := e.containerd(ctx)
	if err != nil {
		return err
	}
	img := images.Image{Name: name, Target: target}
	_, err = c.ImageService().Create(ctx, img)
	if errdefs.IsAlreadyExists(err) {
		_, err = c.ImageService().Update(ctx, img, "target")
	}
	if err != nil {
		return fmt.Errorf("create image %s: %w", name, err)
	}
	return nil
}

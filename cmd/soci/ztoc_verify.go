// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/ztoc"
)

func ztocVerifyCommand() *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "check zTOCs against their layers",
		ArgsUsage: "<file|digest|image_ref> [layer_file]",
		Description: "Reads each layer once and checks that every span of its zTOC has its digest and decodes on\n" +
			"its own to the right bytes, that the table of contents is that of the layer's tar, and that\n" +
			"sizes and digests are right. The zTOC may have either format.\n\n" +
			"Of a zTOC file the layer needs to be given, - stands for standard input. Of a digest the layer is\n" +
			"taken from containerd, and of an image all zTOCs of its SOCI indexes are checked; what containerd\n" +
			"does not have of the image is taken from its registry.\n\n" +
			"Prints a line for each zTOC, and one for each fault. Fails if there is any.",
		Flags: concat(platformFlags(), []cli.Flag{
			&cli.BoolFlag{Name: "plain-http", Usage: "speak http with the registry"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "`user[:password]` of the registry"},
		}),
		Action: action(ztocVerify),
	}
}

func ztocVerify(ctx context.Context, e *env, cmd *cli.Command) error {
	arg, layer := cmd.Args().Get(0), cmd.Args().Get(1)
	if arg == "" {
		return errors.New("ztoc or image needs to be specified")
	}
	v := &verification{env: e, p: e.progress(ctx)}
	defer v.p.done()
	var err error
	switch _, derr := digest.Parse(arg); {
	case derr == nil || isFile(arg):
		err = v.ztoc(ctx, arg, layer)
	case layer != "":
		return fmt.Errorf("verify %s: the layers of an image are not given: it is neither a digest nor a file", arg)
	default:
		err = v.image(ctx, cmd, arg)
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", arg, err)
	}
	if v.checked == 0 {
		return fmt.Errorf("verify %s: its SOCI index lists no zTOC", arg)
	}
	if v.bad > 0 {
		return fmt.Errorf("verify %s: %d of %d zTOCs not good", arg, v.bad, v.checked)
	}
	return nil
}

// isFile reports whether there is a file called name.
func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && !info.IsDir()
}

// verification is one call of ztoc verify.
type verification struct {
	env          *env
	p            *progress
	checked, bad int // zTOCs
}

// ztoc checks one zTOC, given by digest or by file name, against a layer file or, if
// that is "", the layer in containerd.
func (v *verification) ztoc(ctx context.Context, arg, file string) error {
	content, err := v.env.readArtifact(ctx, arg)
	if err != nil {
		return err
	}
	open := func() (io.ReadCloser, error) {
		r, _, err := v.env.openInput(ctx, file)
		return r, err
	}
	var opts ztoc.CheckOptions
	if file == "" {
		dgst, err := digest.Parse(arg)
		if err != nil {
			return errors.New("the layer of a zTOC file needs to be given")
		}
		if opts.LayerDigest, err = v.env.layerOf(dgst); err != nil {
			return err
		}
		images, err := v.env.images(ctx)
		if err != nil {
			return err
		}
		open = func() (io.ReadCloser, error) { return images.Fetch(ctx, ocispec.Descriptor{Digest: opts.LayerDigest}) }
	}
	layer, err := open()
	if err != nil {
		return err
	}
	defer layer.Close()
	v.check(ctx, content, "", layer, opts)
	return ctx.Err()
}

// layerOf returns the layer that a zTOC in the store was made of.
func (e *env) layerOf(z digest.Digest) (digest.Digest, error) {
	db, err := e.db()
	if err != nil {
		return "", err
	}
	entry, err := db.Get(z)
	if err != nil {
		return "", fmt.Errorf("find the layer of ztoc %s: %w", z, err)
	}
	return entry.OriginalDigest, nil
}

// check checks one zTOC, listed under a media type or "", against its layer and prints what it finds.
func (v *verification) check(ctx context.Context, content []byte, mediaType string, layer io.Reader, opts ztoc.CheckOptions) {
	z, err := ztoc.Open(content)
	if err == nil && mediaType != "" && (mediaType == index.MediaTypeCompact) != (z.Format() == ztoc.FormatCompact) {
		err = fmt.Errorf("its format is %s, and its index lists it as %s", z.Format(), mediaType)
	}
	if err != nil {
		v.fault(opts.LayerDigest, digest.FromBytes(content), err)
		return
	}
	name, total := "layer", z.ZInfo().CompressedSize
	if opts.LayerDigest != "" {
		name = shortDigest(opts.LayerDigest)
	}
	count := counter(func(n int) { v.p.step(name, total, int64(n)) })
	c, err := z.Check(ctx, io.TeeReader(layer, count), opts)
	if err != nil {
		v.fault(opts.LayerDigest, digest.FromBytes(content), err)
		return
	}
	if len(c.Faults) > 0 {
		v.fault(c.LayerDigest, digest.FromBytes(content), c.Faults...)
		return
	}
	v.checked++
	v.p.println(fmt.Sprintf("layer %s -> ztoc %s (%s) good: %d spans, %d files, diffID %s",
		c.LayerDigest, digest.FromBytes(content), z.Format(), c.Spans, c.Entries, c.DiffID))
}

// fault prints what is wrong with a zTOC.
func (v *verification) fault(layer, z digest.Digest, faults ...error) {
	v.checked++
	v.bad++
	if layer == "" {
		layer = "-"
	}
	for _, err := range faults {
		v.p.println(fmt.Sprintf("layer %s -> ztoc %s NOT good: %s", layer, z, oneLine(err.Error())))
	}
}

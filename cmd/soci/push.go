// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v3"
	"golang.org/x/sync/errgroup"

	"github.com/seekoci/seekoci/cmd/internal/artifacts"
	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/registry"
)

// The values of --existing-index.
const (
	existingWarn  = "warn"
	existingSkip  = "skip"
	existingAllow = "allow"
)

const defaultUploads = 3

func pushCommand() *cli.Command {
	return &cli.Command{
		Name:      "push",
		Usage:     "push the SOCI index (v1) of an image to its registry",
		ArgsUsage: "<image_ref>",
		Flags: concat(registryFlags(), platformFlags(), []cli.Flag{
			snapshotterFlag(),
			&cli.StringFlag{Name: "existing-index", Value: existingWarn, Usage: "what to do if the registry has an index of the image: `warn`, skip or allow"},
			&cli.Uint64Flag{Name: "max-concurrent-uploads", Value: defaultUploads, Usage: "`number` of blobs pushed at once"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print index digests only"},
		}),
		Action: action(push),
	}
}

func push(ctx context.Context, e *env, cmd *cli.Command) error {
	ref := cmd.Args().First()
	if ref == "" {
		return errors.New("image needs to be specified")
	}
	u, err := newUploader(e, cmd)
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
	images, err := e.images(ctx)
	if err != nil {
		return err
	}
	manifests, err := sel.orHost().manifests(ctx, images, ref, img.Target)
	if err != nil {
		return err
	}
	if u.from, err = e.store(ctx); err != nil {
		return err
	}
	client, repo, err := e.repository(cmd, img.Name)
	if err != nil {
		return err
	}
	defer client.Close()
	u.to = repo
	for _, m := range manifests {
		if err := u.pushOne(ctx, m); err != nil {
			return fmt.Errorf("push SOCI index of image %s: %w", ref, err)
		}
	}
	return nil
}

// uploader pushes indexes from a store to a repository.
type uploader struct {
	env      *env
	from     contentStore
	to       *registry.Repository
	existing string
	uploads  int
	quiet    bool
}

func newUploader(e *env, cmd *cli.Command) (*uploader, error) {
	u := &uploader{env: e, existing: cmd.String("existing-index"), uploads: defaultUploads, quiet: cmd.Bool("quiet")}
	switch u.existing {
	case existingWarn, existingSkip, existingAllow:
	default:
		return nil, fmt.Errorf("unknown value %q of existing-index: expect %s, %s or %s", u.existing, existingWarn, existingSkip, existingAllow)
	}
	if n := cmd.Uint64("max-concurrent-uploads"); n > 0 && n <= math.MaxInt {
		u.uploads = int(n)
	}
	return u, nil
}

// say prints a line unless the command is quiet.
func (u *uploader) say(p *progress, format string, args ...any) {
	if !u.quiet {
		p.println(fmt.Sprintf(format, args...))
	}
}

// pushOne pushes the newest index of one image manifest.
func (u *uploader) pushOne(ctx context.Context, m index.PlatformManifest) error {
	p := u.env.progress(ctx)
	defer p.done()
	newest, err := u.newest(p, m)
	if err != nil {
		return err
	}
	if u.existing != existingAllow {
		there, err := u.remote(ctx, p, m.Manifest, newest.Digest)
		if err != nil {
			return err
		}
		if there && u.existing == existingSkip {
			u.say(p, "skipping the push of soci index with digest: %s", newest.Digest)
			return nil
		}
	}
	if u.quiet {
		p.println(newest.Digest)
	}
	u.say(p, "pushing soci index with digest: %s", newest.Digest)
	x, err := readIndex(ctx, u.from, newest.Digest)
	if err != nil {
		return err
	}
	root := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: newest.Digest, Size: newest.Size}
	return u.copyIndex(ctx, p, x, root)
}

// newest returns the v1 index of an image manifest that was made last.
func (u *uploader) newest(p *progress, m index.PlatformManifest) (artifacts.Entry, error) {
	list, err := u.env.recorded(artifacts.TypeIndex)
	if err != nil {
		return artifacts.Entry{}, err
	}
	for _, a := range list {
		if a.OriginalDigest == m.Manifest.Digest && a.ArtifactType == index.MediaTypeV2 {
			u.say(p, "[WARN] Skippping SOCI index manifest v2. %s belongs to an image that `soci convert` made: push that image", a.Digest)
		}
	}
	for _, a := range list { // the newest first
		if a.OriginalDigest == m.Manifest.Digest && a.ArtifactType == index.MediaTypeV1 {
			return a, nil
		}
	}
	return artifacts.Entry{}, fmt.Errorf("could not find any soci index manifest v1 to push for platform %s", platforms.Format(m.Platform))
}

// remote reports whether the repository has an index of an image manifest, and
// warns if that is not the one to be pushed.
func (u *uploader) remote(ctx context.Context, p *progress, manifest ocispec.Descriptor, dgst digest.Digest) (bool, error) {
	u.say(p, "checking if a soci index already exists in remote repository...")
	list, err := u.to.Referrers(ctx, manifest, index.MediaTypeV1)
	if err != nil {
		return false, fmt.Errorf("list indexes in the registry: %w", err)
	}
	for _, d := range list {
		if d.Digest != dgst && u.existing == existingWarn {
			u.say(p, "[WARN] soci index already exists in remote repository: %s", d.Digest)
		}
	}
	return len(list) > 0, nil
}

// copyIndex pushes an index behind all that it lists.
func (u *uploader) copyIndex(ctx context.Context, p *progress, x *index.Index, root ocispec.Descriptor) error {
	there, err := u.to.Exists(ctx, *x.Subject)
	if err != nil {
		return err
	}
	if !there {
		return fmt.Errorf("image manifest %s is not in the registry: push the image first: %w", x.Subject.Digest, errdefs.ErrNotFound)
	}
	u.say(p, "skipped artifact with digest: %s", x.Subject.Digest)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(u.uploads)
	seen := make(map[digest.Digest]bool)
	for _, d := range append([]ocispec.Descriptor{x.Version.Config()}, x.Layers...) {
		if seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		g.Go(func() error { return u.copyBlob(gctx, p, d) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return u.copyBlob(ctx, p, root)
}

// copyBlob pushes the blob or manifest of desc unless the repository has it.
func (u *uploader) copyBlob(ctx context.Context, p *progress, desc ocispec.Descriptor) (err error) {
	there, err := u.to.Exists(ctx, desc)
	if err != nil {
		return err
	}
	if there {
		u.say(p, "skipped artifact with digest: %s", desc.Digest)
		return nil
	}
	u.say(p, "pushing artifact with digest: %s", desc.Digest)
	r, err := u.from.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := r.Close(); err == nil {
			err = cerr
		}
	}()
	counted := io.TeeReader(r, counter(func(n int) { p.add(desc, int64(n)) }))
	if err := u.to.Push(ctx, desc, counted); err != nil {
		return err
	}
	u.say(p, "successfully pushed artifact with digest: %s", desc.Digest)
	return nil
}

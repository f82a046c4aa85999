// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/index"
)

func prefetchRecordCommand() *cli.Command {
	return &cli.Command{
		Name:      "record",
		Usage:     "attach to an image's SOCI index what starts of it read on this node",
		ArgsUsage: "<image_ref> [dest_ref]",
		Description: "The snapshotter notes what the start of a container reads of its image, and in which order.\n" +
			"This makes profiles and prefetch artifacts of it and lists them in the image's SOCI index, so that\n" +
			"the image starts faster on other nodes, too. An index that is not here is taken from the registry.\n\n" +
			"Of an image without a v2 index the v1 index is made anew: push it with soci push. Of an image that\n" +
			"soci convert made the image is made anew, under the name dest_ref if that is given: push the image.",
		Flags: concat(platformFlags(), []cli.Flag{
			&cli.StringFlag{Name: "daemon-root", Usage: "root `directory` of the snapshotter (default: that of --root)"},
			&cli.BoolFlag{Name: "plain-http", Usage: "speak http with the registry"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "`user[:password]` of the registry"},
		}),
		Action: action(prefetchRecord),
	}
}

func prefetchRecord(ctx context.Context, e *env, cmd *cli.Command) error {
	ref, dest := cmd.Args().Get(0), cmd.Args().Get(1)
	if ref == "" {
		return errors.New("image needs to be specified")
	}
	if dest != "" {
		if err := checkDestination(dest); err != nil {
			return err
		}
	}
	sel, err := platformSelection(cmd)
	if err != nil {
		return err
	}
	root := cmd.String("daemon-root")
	if root == "" {
		root = e.root
	}
	r := &profileRecorder{env: e, profiles: index.ProfileDir(filepath.Join(root, "soci", "profiles"))}
	if r.img, err = e.image(ctx, ref); err != nil {
		return err
	}
	if r.local, err = e.indexStore(ctx); err != nil {
		return err
	}
	manifests, err := sel.orHost().manifests(ctx, r.local, ref, r.img.Target)
	if err != nil {
		return err
	}
	client, repo, err := e.repository(cmd, r.img.Name)
	if err != nil {
		return err
	}
	defer client.Close()
	r.from = imageSource{r.local, repo}
	if err := e.makeRoot(); err != nil {
		return err
	}
	ctx, release, err := e.lease(ctx)
	if err != nil {
		return err
	}
	defer release()
	r.p = e.progress(ctx)
	defer r.p.done()
	if err := r.record(ctx, manifests, dest); err != nil {
		return fmt.Errorf("record starts of image %s: %w", ref, err)
	}
	return nil
}

// profileRecorder is one call of prefetch record.
type profileRecorder struct {
	env      *env
	p        *progress
	profiles index.ProfileDir
	img      images.Image
	local    contentStore
	from     imageSource // local, or else the registry
}

// record attaches the profiles of image manifests to their indexes.
func (r *profileRecorder) record(ctx context.Context, manifests []index.PlatformManifest, dest string) error {
	loaded := make(map[digest.Digest]index.Profiles)
	var converted []ocispec.Platform // of manifests that name their index
	for _, m := range manifests {
		var doc ocispec.Manifest
		if err := readJSON(ctx, r.local, m.Manifest, &doc); err != nil {
			return fmt.Errorf("read image manifest: %w", err)
		}
		profiles, err := r.load(m.Manifest.Digest, doc.Layers)
		if err != nil {
			return err
		}
		if len(profiles) == 0 {
			continue
		}
		loaded[m.Manifest.Digest] = profiles
		named := digest.Digest(doc.Annotations[index.AnnotationIndexDigest])
		if named == "" {
			if err := r.attach(ctx, m, profiles); err != nil {
				return err
			}
			continue
		}
		converted = append(converted, m.Platform)
		if err := r.bring(ctx, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: named}); err != nil {
			return err
		}
	}
	if len(loaded) == 0 {
		return fmt.Errorf("no start was recorded in %s: run a container of the image with this node's snapshotter", r.profiles)
	}
	if len(converted) == 0 {
		return nil
	}
	return r.attachImage(ctx, converted, dest, func(m digest.Digest) (index.Profiles, error) { return loaded[m], nil })
}

// load returns the profiles of the layers of an image manifest.
func (r *profileRecorder) load(manifest digest.Digest, layers []ocispec.Descriptor) (index.Profiles, error) {
	profiles := make(index.Profiles)
	for _, l := range layers {
		p, _, err := r.profiles.Load(l.Digest, manifest)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if profiles[l.Digest] == nil {
			r.p.println(fmt.Sprintf("layer %s: starts read %d bytes in %d ranges", l.Digest, p.Len(), len(p.Ranges)))
		}
		profiles[l.Digest] = p
	}
	return profiles, nil
}

// attach attaches profiles to the v1 index of an image manifest.
func (r *profileRecorder) attach(ctx context.Context, m index.PlatformManifest, profiles index.Profiles) error {
	v := verification{env: r.env}
	found, err := v.indexes(ctx, r.from, m.Manifest.Digest, "")
	if err != nil {
		return err
	}
	x := found[0]
	if x.Version != index.V1 {
		return fmt.Errorf("image manifest %s does not name its SOCI index v2", m.Manifest.Digest)
	}
	if err := r.bringAll(ctx, x); err != nil {
		return err
	}
	x, desc, err := index.Attach(ctx, r.local, x, profiles)
	if err != nil {
		return err
	}
	platform := platforms.Format(m.Platform)
	if !r.env.useSOCI {
		if err := r.env.labelImage(ctx, r.img.Name, platform, desc.Digest); err != nil {
			return err
		}
	}
	if err := r.env.record(x, desc, bound{manifest: m.Manifest.Digest, image: r.img.Target.Digest, platform: platform}); err != nil {
		return err
	}
	r.p.println(fmt.Sprintf("made soci index %s of image manifest %s", desc.Digest, m.Manifest.Digest))
	return nil
}

// attachImage attaches profiles to the v2 indexes of the image and makes the image anew.
func (r *profileRecorder) attachImage(ctx context.Context, targets []ocispec.Platform, dest string, profiles func(digest.Digest) (index.Profiles, error)) error {
	st, err := r.env.convertStore(ctx)
	if err != nil {
		return err
	}
	if images.IsManifestType(r.img.Target.MediaType) {
		targets = nil
	}
	res, err := index.AttachImage(ctx, st, r.img.Target, targets, profiles)
	if err != nil {
		return err
	}
	if dest == "" {
		dest = r.img.Name
	}
	if err := r.env.nameImage(ctx, dest, res.Index); err != nil {
		return err
	}
	for _, c := range res.Platforms {
		b := bound{manifest: c.Manifest.Digest, image: res.Index.Digest, platform: platforms.Format(c.Platform)}
		if err := r.env.record(c.Index, c.SOCI, b); err != nil {
			return err
		}
		r.p.println(fmt.Sprintf("made soci index %s of image manifest %s", c.SOCI.Digest, c.Manifest.Digest))
	}
	r.p.println(fmt.Sprintf("image %s is now %s", dest, res.Index.Digest))
	return nil
}

// bring makes sure that an index, and all that it lists, is here.
func (r *profileRecorder) bring(ctx context.Context, desc ocispec.Descriptor) error {
	content, err := index.ReadAll(ctx, r.from.local, desc, index.MaxSize)
	if errdefs.IsNotFound(err) {
		if desc, err = r.from.remote.Resolve(ctx, desc.Digest.String()); err == nil {
			content, err = index.ReadAll(ctx, r.from.remote, desc, index.MaxSize)
		}
	}
	if err != nil {
		return fmt.Errorf("read SOCI index: %w", err)
	}
	x, err := index.Unmarshal(content)
	if err != nil {
		return fmt.Errorf("read SOCI index %s: %w", desc.Digest, err)
	}
	if err := r.bringAll(ctx, x); err != nil {
		return err
	}
	desc.Size = int64(len(content))
	return r.fetch(ctx, desc)
}

// bringAll makes sure that all that an index lists is here.
func (r *profileRecorder) bringAll(ctx context.Context, x *index.Index) error {
	for _, d := range append([]ocispec.Descriptor{x.Version.Config()}, x.Layers...) {
		if err := r.fetch(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// fetch fetches content from the registry unless it is here.
func (r *profileRecorder) fetch(ctx context.Context, desc ocispec.Descriptor) (err error) {
	have, err := r.from.local.Fetch(ctx, desc)
	if err == nil {
		return have.Close()
	}
	if !errdefs.IsNotFound(err) {
		return err
	}
	content, err := r.from.remote.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	plain := ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
	if err := r.local.Push(ctx, plain, io.LimitReader(content, desc.Size+1)); err != nil {
		return fmt.Errorf("fetch %s: %w", desc.Digest, err)
	}
	return nil
}

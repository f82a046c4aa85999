// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/ztoc"
)

// imageSource is where the content of an image is: here, or else in its registry.
type imageSource struct {
	local  index.Fetcher
	remote *registry.Repository
}

// Fetch opens content.
func (s imageSource) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := s.local.Fetch(ctx, desc)
	if errdefs.IsNotFound(err) {
		return s.remote.Fetch(ctx, desc)
	}
	return r, err
}

// image checks the zTOCs of all SOCI indexes of an image in containerd.
func (v *verification) image(ctx context.Context, cmd *cli.Command, ref string) error {
	sel, err := platformSelection(cmd)
	if err != nil {
		return err
	}
	img, err := v.env.image(ctx, ref)
	if err != nil {
		return fmt.Errorf("neither a digest nor a file: %w", err)
	}
	local, err := v.env.indexStore(ctx)
	if err != nil {
		return err
	}
	manifests, err := sel.orHost().manifests(ctx, local, ref, img.Target)
	if err != nil {
		return err
	}
	client, repo, err := v.env.repository(cmd, img.Name)
	if err != nil {
		return err
	}
	defer client.Close()
	for _, m := range manifests {
		if err := v.manifest(ctx, imageSource{local, repo}, m.Manifest); err != nil {
			return fmt.Errorf("for %s: %w", platforms.Format(m.Platform), err)
		}
	}
	return nil
}

// manifest checks the zTOCs of all SOCI indexes of an image manifest.
func (v *verification) manifest(ctx context.Context, from imageSource, desc ocispec.Descriptor) error {
	var m ocispec.Manifest
	if err := readJSON(ctx, from, desc, &m); err != nil {
		return fmt.Errorf("read image manifest: %w", err)
	}
	var config ocispec.Image
	if err := readJSON(ctx, from, m.Config, &config); err != nil {
		return fmt.Errorf("read image config: %w", err)
	}
	if n := len(config.RootFS.DiffIDs); n != len(m.Layers) {
		return fmt.Errorf("read image config %s: %d diffIDs for %d layers", m.Config.Digest, n, len(m.Layers))
	}
	indexes, err := v.indexes(ctx, from, desc.Digest, digest.Digest(m.Annotations[index.AnnotationIndexDigest]))
	if err != nil {
		return err
	}
	var seen []digest.Digest
	for _, x := range indexes {
		for i, l := range m.Layers {
			opts := ztoc.CheckOptions{LayerDigest: l.Digest, DiffID: config.RootFS.DiffIDs[i]}
			for _, find := range []func(digest.Digest) (ocispec.Descriptor, bool){x.ZTOC, x.Compact} {
				z, ok := find(l.Digest)
				if !ok || slices.Contains(seen, z.Digest) {
					continue
				}
				seen = append(seen, z.Digest)
				v.listed(ctx, from, z, l, opts)
				if err := ctx.Err(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// readJSON reads a manifest or config.
func readJSON(ctx context.Context, from index.Fetcher, desc ocispec.Descriptor, to any) error {
	p, err := index.ReadAll(ctx, from, desc, index.MaxManifestSize)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(p, to); err != nil {
		return fmt.Errorf("decode %s: %w", desc.Digest, err)
	}
	return nil
}

// indexes returns the SOCI indexes of an image manifest: the one it names, those last made of it here and, if
// there is none of either, the one in the registry.
func (v *verification) indexes(ctx context.Context, from imageSource, manifest, named digest.Digest) ([]*index.Index, error) {
	db, err := v.env.db()
	if err != nil {
		return nil, err
	}
	var dgsts []digest.Digest
	if named != "" {
		dgsts = append(dgsts, named)
	}
	for _, version := range []index.Version{index.V1, index.V2} {
		switch a, err := db.NewestIndex(manifest, version); {
		case errdefs.IsNotFound(err):
		case err != nil:
			return nil, err
		case a.Digest != named:
			dgsts = append(dgsts, a.Digest)
		}
	}
	var found []*index.Index
	for _, d := range dgsts {
		x, _, err := index.Read(ctx, from.local, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d})
		if errdefs.IsNotFound(err) {
			continue // collected since, or never pulled
		}
		if err != nil {
			return nil, err
		}
		found = append(found, x)
	}
	if len(found) > 0 {
		return found, nil
	}
	x, _, err := index.Find(ctx, from.remote, manifest, index.FindOptions{V1: true, V2: true})
	if errors.Is(err, index.ErrNone) {
		return nil, fmt.Errorf("neither here nor in the registry: %w", err)
	}
	return []*index.Index{x}, err
}

// listed checks the zTOC z that an index lists for a layer.
func (v *verification) listed(ctx context.Context, from imageSource, z, l ocispec.Descriptor, opts ztoc.CheckOptions) {
	content, err := index.ReadAll(ctx, from, z, ztoc.MaxSize)
	if err != nil {
		v.fault(l.Digest, z.Digest, err)
		return
	}
	layer, err := from.Fetch(ctx, l)
	if err != nil {
		v.fault(l.Digest, z.Digest, err)
		return
	}
	defer layer.Close()
	v.check(ctx, content, layer, opts)
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

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
	layers := make(map[digest.Digest]imageLayer, len(m.Layers))
	for i, l := range m.Layers {
		layers[l.Digest] = imageLayer{l, config.RootFS.DiffIDs[i]}
	}
	seen := make(map[[3]string]bool)
	for _, x := range indexes {
		for _, z := range x.Layers {
			layer := z.Annotations[index.AnnotationLayerDigest]
			k := [3]string{z.MediaType, z.Digest.String(), layer}
			if !isZTOC(z) || seen[k] {
				continue
			}
			seen[k] = true
			if l, ok := layers[digest.Digest(layer)]; ok {
				v.listed(ctx, from, z, l)
			} else {
				v.fault(digest.Digest(layer), z.Digest, errors.New("the image does not have the layer"))
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

// imageLayer is a layer of an image.
type imageLayer struct {
	desc   ocispec.Descriptor
	diffID digest.Digest
}

// isZTOC reports whether an index lists d as a zTOC, of either format.
func isZTOC(d ocispec.Descriptor) bool {
	return d.MediaType == index.MediaTypeZTOC || d.MediaType == index.MediaTypeCompact
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

// listed checks the zTOC z that an index lists for the layer l.
func (v *verification) listed(ctx context.Context, from imageSource, z ocispec.Descriptor, l imageLayer) {
	content, err := index.ReadAll(ctx, from, z, ztoc.MaxSize)
	if err != nil {
		v.fault(l.desc.Digest, z.Digest, err)
		return
	}
	layer, err := from.Fetch(ctx, l.desc)
	if err != nil {
		v.fault(l.desc.Digest, z.Digest, err)
		return
	}
	defer layer.Close()
	v.check(ctx, content, z.MediaType, layer, ztoc.CheckOptions{LayerDigest: l.desc.Digest, DiffID: l.diffID})
}

// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The media types of docker images, equivalents of the image-spec's.
const (
	dockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig       = "application/vnd.docker.container.image.v1+json"
)

// Annotations by which BuildKit ties an attestation to an image manifest.
const (
	annotationReferenceType   = "vnd.docker.reference.type"
	annotationReferenceDigest = "vnd.docker.reference.digest"
)

// Bounds of image indexes.
const (
	maxNesting   = 4
	maxManifests = 256
	maxTree      = 32 << 20 // bytes of all manifests of an image
)

// PlatformManifest is an image manifest of an image.
type PlatformManifest struct {
	Manifest ocispec.Descriptor // as its image index lists it
	Platform ocispec.Platform   // from the descriptor, else from the config
	Missing  bool               // not in the store, though an image index lists it
}

// Manifests lists the image manifests of image, an image manifest or an image
// index, in order, nested image indexes included. What is not for a platform is left out:
// attestations, SOCI indexes, other artifacts. A manifest that is not in the store is listed
// with Missing set if its descriptor has the platform; of a missing nested image
// index nothing is known.
func Manifests(ctx context.Context, store Fetcher, image ocispec.Descriptor) ([]PlatformManifest, error) {
	t, err := readTree(ctx, store, image)
	if err != nil {
		return nil, err
	}
	var list []PlatformManifest
	for _, c := range t.children {
		if c.kind == kindImage {
			list = append(list, PlatformManifest{Manifest: c.desc.Descriptor, Platform: c.platform, Missing: c.manifest == nil})
		}
	}
	return list, nil
}

func isManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == dockerManifest
}

func isImageIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerManifestList
}

func isImageConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == dockerConfig
}

// kind says what a child of an image index is.
type kind int

const (
	kindOther       kind = iota // nothing of ours: an artifact, an image without platform, a missing image index
	kindImage                   // an image manifest for a platform, in the store or missing
	kindAttestation             // about an image manifest, which its annotations name
	kindSOCI                    // a v2 SOCI index
)

// child is one manifest of an image.
type child struct {
	desc     descriptor
	kind     kind
	platform ocispec.Platform // of an image
	manifest *manifest        // of an image; nil if it is not in the store
}

// tree is an image: its image index, flat, and what that lists. The image index of a
// single manifest is the one it would have.
type tree struct {
	index    imageIndex // all but its manifests
	children []child
	listed   int   // manifests and image indexes below index
	size     int64 // bytes of those that are read
}

// readTree reads the manifests of an image, without layers.
func readTree(ctx context.Context, store Fetcher, image ocispec.Descriptor) (*tree, error) {
	t := new(tree)
	t.index.SchemaVersion = 2
	switch {
	case isManifest(image.MediaType):
		// The platform of a single manifest is that of its config.
		d := ocispec.Descriptor{MediaType: image.MediaType, Digest: image.Digest, Size: image.Size}
		c, err := readChild(ctx, store, descriptor{Descriptor: d})
		switch {
		case err != nil:
			return nil, err
		case c.kind != kindImage:
			return nil, fmt.Errorf("read image %s: its config is not that of an image", image.Digest)
		}
		c.desc.Platform = &c.platform
		t.children = []child{c}
		return t, nil
	case isImageIndex(image.MediaType):
		x, err := fetchImageIndex(ctx, store, image)
		if err != nil {
			return nil, err
		}
		t.index = *x
		return t, t.add(ctx, store, x, 1)
	}
	return nil, fmt.Errorf("read image %s: unsupported media type %.100q", image.Digest, image.MediaType)
}

// add adds the children of x.
func (t *tree) add(ctx context.Context, store Fetcher, x *imageIndex, depth int) error {
	for _, d := range x.Manifests {
		if t.listed++; t.listed > maxManifests {
			return malformed("image index", "more than %d manifests", maxManifests)
		}
		nests := isImageIndex(d.MediaType) && d.ArtifactType == ""
		if nests || classify(d.Descriptor) == kindImage { // others are not read
			if d.Size > maxTree-t.size {
				return malformed("image index", "manifests of more than %d bytes", maxTree)
			}
			t.size += d.Size
		}
		if nests {
			nested, err := fetchImageIndex(ctx, store, d.Descriptor)
			switch {
			case errors.Is(err, errdefs.ErrNotFound):
				t.children = append(t.children, child{desc: d})
			case err != nil:
				return err
			case depth >= maxNesting:
				return malformed("image index", "nested more than %d deep", maxNesting)
			default:
				if err := t.add(ctx, store, nested, depth+1); err != nil {
					return err
				}
			}
			continue
		}
		c, err := readChild(ctx, store, d)
		switch {
		case errors.Is(err, errdefs.ErrNotFound):
			c = child{desc: d} // it or its config is missing: of no platform that could be known
		case err != nil:
			return err
		}
		t.children = append(t.children, c)
	}
	return nil
}

// readChild finds out what the manifest of d is. A manifest may be missing if its descriptor has the platform.
func readChild(ctx context.Context, store Fetcher, d descriptor) (child, error) {
	c := child{desc: d, kind: classify(d.Descriptor)}
	if c.kind != kindImage {
		return c, nil
	}
	if d.Platform != nil {
		c.platform = *d.Platform
	}
	m, err := fetchManifest(ctx, store, d.Descriptor)
	switch {
	case errors.Is(err, errdefs.ErrNotFound) && d.Platform != nil:
		return c, nil
	case err != nil:
		return child{}, err
	case m.ArtifactType != "" || !isImageConfig(m.Config.MediaType):
		c.kind = kindOther
		return c, nil
	}
	c.manifest = m
	if d.Platform == nil {
		p, err := configPlatform(ctx, store, m.Config.Descriptor)
		if err != nil {
			return child{}, fmt.Errorf("read platform of image manifest %s: %w", d.Digest, err)
		}
		if p.OS == "" || p.Architecture == "" {
			c.kind = kindOther
		}
		c.platform = p
	}
	return c, nil
}

// classify says what d is, as far as d tells; an image may still turn out to be something else.
func classify(d ocispec.Descriptor) kind {
	p := d.Platform
	switch {
	case d.ArtifactType == MediaTypeV2:
		return kindSOCI
	case d.ArtifactType != "" || !isManifest(d.MediaType):
		return kindOther
	case d.Annotations[annotationReferenceType] != "":
		return kindAttestation
	case p != nil && (p.OS == "unknown" || p.Architecture == "unknown"):
		return kindOther
	}
	return kindImage
}

// configPlatform returns the platform that an image config names, if any.
func configPlatform(ctx context.Context, store Fetcher, config ocispec.Descriptor) (ocispec.Platform, error) {
	b, err := ReadAll(ctx, store, config, MaxManifestSize)
	if err != nil {
		return ocispec.Platform{}, err
	}
	var p ocispec.Platform
	if err := json.Unmarshal(b, &p); err != nil {
		return ocispec.Platform{}, malformed("image config", "%s: %v", config.Digest, err)
	}
	if p.OS == "" || p.Architecture == "" {
		return ocispec.Platform{}, nil
	}
	return platforms.Normalize(p), nil
}

func fetchImageIndex(ctx context.Context, store Fetcher, desc ocispec.Descriptor) (*imageIndex, error) {
	p, err := ReadAll(ctx, store, desc, MaxManifestSize)
	if err != nil {
		return nil, fmt.Errorf("read image index: %w", err)
	}
	x := new(imageIndex)
	if err := json.Unmarshal(p, x); err != nil {
		return nil, malformed("image index", "%s: %v", desc.Digest, err)
	}
	if x.MediaType != "" && !isImageIndex(x.MediaType) {
		return nil, malformed("image index", "%s: media type %.100q", desc.Digest, x.MediaType)
	}
	return x, nil
}

func fetchManifest(ctx context.Context, store Fetcher, desc ocispec.Descriptor) (*manifest, error) {
	p, err := ReadAll(ctx, store, desc, MaxManifestSize)
	if err != nil {
		return nil, fmt.Errorf("read image manifest: %w", err)
	}
	return parseManifest(p, desc)
}

func parseManifest(p []byte, desc ocispec.Descriptor) (*manifest, error) {
	const doc = "image manifest"
	m := new(manifest)
	if err := json.Unmarshal(p, m); err != nil {
		return nil, malformed(doc, "%s: %v", desc.Digest, err)
	}
	if m.SchemaVersion != 2 || m.MediaType != "" && !isManifest(m.MediaType) {
		return nil, malformed(doc, "%s: schema version %d, media type %.100q", desc.Digest, m.SchemaVersion, m.MediaType)
	}
	if err := validate(m.Config.Descriptor); err != nil {
		return nil, malformed(doc, "%s: config: %v", desc.Digest, err)
	}
	for i, l := range m.Layers {
		if err := validate(l.Descriptor); err != nil {
			return nil, malformed(doc, "%s: layer %d: %v", desc.Digest, i, err)
		}
	}
	return m, nil
}

// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/ztoc"
)

// Profiles are profiles of an image's layers, by the digest of the layer.
type Profiles map[digest.Digest]*Profile

// Attach makes an index that lists, beside what x lists, profiles of layers and prefetch
// artifacts that say the same to readers that do not know profiles; they replace those that
// x lists of these layers. It pushes them and then the index to store, where the zTOCs
// of the layers are. Profiles of layers that x does not list are ignored; if nothing is left the error is ErrNoProfile.
func Attach(ctx context.Context, store Store, x *Index, profiles Profiles) (*Index, ocispec.Descriptor, error) {
	var q queue
	defer q.close()
	made, desc, err := attach(ctx, store, x, profiles, &q)
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	if err := q.push(ctx, store); err != nil {
		return nil, ocispec.Descriptor{}, fmt.Errorf("store SOCI index %s: %w", desc.Digest, err)
	}
	return made, desc, nil
}

// AttachImage does to every SOCI index of an image that Convert made what Attach does to one, and makes the image of
// the results that Convert would: the image manifests name their new indexes. profiles are those of the
// layers of an image manifest. Manifests without an index, or without profiles, stay as they are; if all do
// the error is ErrNoProfile.
func AttachImage(ctx context.Context, store Store, image ocispec.Descriptor, targets []ocispec.Platform, profiles func(manifest digest.Digest) (Profiles, error)) (*Converted, error) {
	return convert(ctx, store, image, targets, func(ctx context.Context, ch *child, q *queue) (*Index, ocispec.Descriptor, error) {
		named := digest.Digest(ch.manifest.Annotations[AnnotationIndexDigest])
		if named == "" {
			return nil, ocispec.Descriptor{}, errSkip
		}
		p, err := profiles(ch.desc.Digest)
		if err != nil {
			return nil, ocispec.Descriptor{}, err
		}
		x, _, err := Read(ctx, store, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: named})
		if err != nil {
			return nil, ocispec.Descriptor{}, fmt.Errorf("named by image manifest %s: %w", ch.desc.Digest, err)
		}
		made, desc, err := attach(ctx, store, x, p, q)
		if errors.Is(err, ErrNoProfile) {
			err = errSkip
		}
		return made, desc, err
	}, ErrNoProfile)
}

// attach makes an index; what is to be pushed of it is queued.
func attach(ctx context.Context, store Store, x *Index, profiles Profiles, q *queue) (*Index, ocispec.Descriptor, error) {
	var layers []digest.Digest // with a profile, in order
	seen := make(map[digest.Digest]bool)
	for _, d := range x.Layers {
		l := digest.Digest(d.Annotations[AnnotationLayerDigest])
		if isZTOC(d) && profiles[l] != nil && !seen[l] {
			seen[l] = true
			layers = append(layers, l)
		}
	}
	if len(layers) == 0 {
		return nil, ocispec.Descriptor{}, ErrNoProfile
	}
	var prefetch, profile []ocispec.Descriptor
	for _, l := range layers {
		made, err := profileArtifacts(ctx, store, x, l, profiles[l], q)
		if err != nil {
			return nil, ocispec.Descriptor{}, fmt.Errorf("profile of layer %s: %w", l, err)
		}
		for _, d := range made {
			d.Annotations = map[string]string{AnnotationLayerDigest: l.String()}
			if d.MediaType == MediaTypePrefetch {
				prefetch = append(prefetch, d)
			} else {
				profile = append(profile, d)
			}
		}
	}
	replaced := func(d ocispec.Descriptor) bool { return seen[digest.Digest(d.Annotations[AnnotationLayerDigest])] }
	y := &Index{Version: x.Version, Subject: x.Subject, BuildTool: x.BuildTool}
	y.Layers = arrange(x.Layers, prefetch, profile, replaced)
	p, desc, err := y.Marshal()
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	q.addBytes(y.Version.Config(), []byte(emptyConfig))
	q.addBytes(desc, p)
	return y, desc, nil
}

// arrange returns what list lists in the order of an index, with prefetch artifacts and profiles in the
// place of those that are replaced.
func arrange(list, prefetch, profile []ocispec.Descriptor, replaced func(ocispec.Descriptor) bool) []ocispec.Descriptor {
	var out []ocispec.Descriptor
	pick := func(want func(mediaType string) bool, more []ocispec.Descriptor) {
		for _, d := range list {
			if want(d.MediaType) && (more == nil || !replaced(d)) {
				out = append(out, d)
			}
		}
		out = append(out, more...)
	}
	pick(func(t string) bool { return t == MediaTypeZTOC }, nil)
	pick(func(t string) bool { return t == MediaTypePrefetch }, prefetch)
	pick(func(t string) bool { return t != MediaTypeZTOC && t != MediaTypePrefetch && t != MediaTypeProfile }, nil)
	pick(func(t string) bool { return t == MediaTypeProfile }, profile)
	return out
}

// profileArtifacts queues the profile of a layer and, where there is a zTOC 0.9 of it, the prefetch artifact.
func profileArtifacts(ctx context.Context, store Store, x *Index, layer digest.Digest, p *Profile, q *queue) ([]ocispec.Descriptor, error) {
	var made []ocispec.Descriptor
	add := func(content []byte, desc ocispec.Descriptor, err error) error {
		if err == nil {
			q.addBytes(desc, content)
			made = append(made, desc)
		}
		return err
	}
	if d, ok := x.ZTOC(layer); ok {
		z, err := ReadZTOC(ctx, store, d)
		if err != nil {
			return nil, err
		}
		if err := p.fits(z.ZInfo()); err != nil {
			return nil, err
		}
		if err := add(p.Prefetch(z.ZInfo()).Marshal()); err != nil {
			return nil, err
		}
	}
	return made, add(p.Marshal())
}

// fits says whether p can be a profile of the layer with zInfo z.
func (p *Profile) fits(z *ztoc.ZInfo) error {
	if p.Size != z.UncompressedSize {
		return fmt.Errorf("it is of a layer of %d bytes, not %d", p.Size, z.UncompressedSize)
	}
	return nil
}

// isZTOC reports whether an index lists d as a zTOC, of either format.
func isZTOC(d ocispec.Descriptor) bool {
	return d.MediaType == MediaTypeZTOC || d.MediaType == MediaTypeCompact
}

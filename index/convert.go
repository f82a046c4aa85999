// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Converted is a SOCI-enabled image.
type Converted struct {
	Index     ocispec.Descriptor // the OCI image index
	Platforms []ConvertedPlatform
	// Written are the manifests and indexes of the new image that Convert pushed, in the order of the pushes: what
	// a store that collects garbage must be told of.
	Written []Written
}

// ConvertedPlatform is an image manifest that got a SOCI index.
type ConvertedPlatform struct {
	Platform ocispec.Platform
	Source   ocispec.Descriptor // the image manifest before
	Manifest ocispec.Descriptor // and after
	SOCI     ocispec.Descriptor // its SOCI index
	Index    *Index             // the content of SOCI
}

// Written is a document that was pushed and what it refers to, in order.
type Written struct {
	Desc     ocispec.Descriptor
	Config   ocispec.Descriptor   // of a manifest or SOCI index; zero for an image index
	Children []ocispec.Descriptor // layers, zTOCs and other artifacts, or manifests
}

// Convert makes a SOCI-enabled image of image, an image manifest or image index in store:
// an OCI image index whose image manifests name their SOCI indexes by annotation.
// The image manifests for platforms get an index, each platform the one that fits it
// best; no platforms means all in the store. An image manifest of which every layer is skipped gets none;
// if that is so for all, the error matches ErrNoZTOCs. Converting a converted
// image again changes nothing but what the options change.
//
// A platform that the store does not have is an error that matches errdefs.ErrNotFound.
func Convert(ctx context.Context, store Store, image ocispec.Descriptor, targets []ocispec.Platform, opts BuildOptions) (*Converted, error) {
	opts = opts.withDefaults()
	return convert(ctx, store, image, targets, func(ctx context.Context, ch *child, q *queue) (*Index, ocispec.Descriptor, error) {
		x, desc, err := build(ctx, store, ch.manifest, ch.desc.Descriptor, V2, opts, q)
		if errors.Is(err, ErrNoZTOCs) {
			err = errSkip
		}
		return x, desc, err
	}, ErrNoZTOCs)
}

// errSkip says that an image manifest gets no new index.
var errSkip = errors.New("no index")

// indexer makes the index of a child; what is to be pushed of it is queued.
type indexer func(ctx context.Context, ch *child, q *queue) (*Index, ocispec.Descriptor, error)

// convert makes a SOCI-enabled image of the indexes that indexOf makes. The error none says that there are none.
func convert(ctx context.Context, store Store, image ocispec.Descriptor, targets []ocispec.Platform, indexOf indexer, none error) (*Converted, error) {
	t, err := readTree(ctx, store, image)
	if err != nil {
		return nil, err
	}
	chosen, err := t.choose(targets)
	if err != nil {
		return nil, fmt.Errorf("convert image %s: %w", image.Digest, err)
	}
	c := &converter{
		tree:  t,
		queue: queue{limit: maxHeld},
		moved: make(map[digest.Digest]digest.Digest),
	}
	defer c.queue.close()
	if err := c.buildIndexes(ctx, chosen, indexOf); err != nil {
		return nil, err
	}
	if len(c.built) == 0 {
		return nil, none
	}
	if err := c.rewriteManifests(); err != nil {
		return nil, fmt.Errorf("convert image %s: %w", image.Digest, err)
	}
	if err := c.writeImageIndex(); err != nil {
		return nil, fmt.Errorf("convert image %s: %w", image.Digest, err)
	}
	if err := c.queue.push(ctx, store); err != nil {
		return nil, fmt.Errorf("store converted image %s: %w", image.Digest, err)
	}
	return &c.result, nil
}

// choose returns the children to index, in order of platforms, or of the image if there are none.
func (t *tree) choose(targets []ocispec.Platform) ([]int, error) {
	var chosen []int
	if len(targets) == 0 {
		for i, c := range t.children {
			if c.kind == kindImage && c.manifest != nil {
				chosen = append(chosen, i)
			}
		}
		if len(chosen) == 0 {
			return nil, fmt.Errorf("image manifest: %w", errdefs.ErrNotFound)
		}
		return chosen, nil
	}
	for _, p := range targets {
		match := platforms.OnlyStrict(p)
		best := -1
		for i, c := range t.children {
			if c.kind == kindImage && match.Match(c.platform) &&
				(best < 0 || match.Less(c.platform, t.children[best].platform)) {
				best = i
			}
		}
		if best < 0 || t.children[best].manifest == nil {
			return nil, fmt.Errorf("image manifest for platform %s: %w", platforms.Format(p), errdefs.ErrNotFound)
		}
		if !slices.Contains(chosen, best) {
			chosen = append(chosen, best)
		}
	}
	return chosen, nil
}

// converter carries one Convert from step to step.
type converter struct {
	tree   *tree
	queue  queue
	built  []converted
	moved  map[digest.Digest]digest.Digest // image manifests, from before to after
	result Converted
}

// converted is a child that got an index.
type converted struct {
	child  int                // of the tree
	source ocispec.Descriptor // of the image manifest before
	index  *Index
	desc   ocispec.Descriptor // of index
}

// buildIndexes makes the SOCI indexes and names them in their image manifests.
func (c *converter) buildIndexes(ctx context.Context, chosen []int, indexOf indexer) error {
	for _, i := range chosen {
		ch := &c.tree.children[i]
		x, desc, err := indexOf(ctx, ch, &c.queue)
		if errors.Is(err, errSkip) {
			continue
		}
		if err != nil {
			return err
		}
		c.built = append(c.built, converted{child: i, source: ch.desc.Descriptor, index: x, desc: desc})
		c.result.Written = append(c.result.Written, Written{Desc: desc, Config: V2.Config(), Children: x.Layers})
		if ch.manifest.Annotations == nil {
			ch.manifest.Annotations = make(map[string]string)
		}
		ch.manifest.Annotations[AnnotationIndexDigest] = desc.Digest.String()
	}
	return nil
}

// rewriteManifests writes every image manifest of the tree anew, as an OCI manifest.
func (c *converter) rewriteManifests() error {
	for i := range c.tree.children {
		ch := &c.tree.children[i]
		if ch.kind != kindImage || ch.manifest == nil {
			continue
		}
		m := ch.manifest
		m.MediaType = ocispec.MediaTypeImageManifest
		m.Config.MediaType = ocispec.MediaTypeImageConfig
		p, err := json.Marshal(m)
		if err != nil {
			return fmt.Errorf("marshal image manifest: %w", err)
		}
		d := &ch.desc
		c.moved[d.Digest] = digest.FromBytes(p)
		d.MediaType, d.Digest, d.Size = m.MediaType, digest.FromBytes(p), int64(len(p))
		d.Data = nil // it was the old manifest's
		d.Annotations = m.Annotations
		c.queue.addBytes(d.Descriptor, p)
		w := Written{Desc: d.Descriptor, Config: m.Config.Descriptor}
		for _, l := range m.Layers {
			w.Children = append(w.Children, l.Descriptor)
		}
		c.result.Written = append(c.result.Written, w)
	}
	return nil
}

// writeImageIndex writes the image index: the tree's children and the SOCI indexes.
func (c *converter) writeImageIndex() error {
	x := c.tree.index
	x.MediaType = ocispec.MediaTypeImageIndex
	x.Manifests = make([]descriptor, 0, len(c.tree.children)+len(c.built))
	for _, ch := range c.tree.children {
		c.repoint(&ch)
		x.Manifests = append(x.Manifests, ch.desc)
	}
	replaced := make(map[int]bool)
	for _, b := range c.built {
		ch := c.tree.children[b.child]
		d := descriptor{Descriptor: ocispec.Descriptor{
			MediaType:    b.desc.MediaType,
			Digest:       b.desc.Digest,
			Size:         b.desc.Size,
			Annotations:  map[string]string{AnnotationImageManifestDigest: ch.desc.Digest.String()},
			Platform:     &ch.platform,
			ArtifactType: MediaTypeV2,
		}}
		if i := slot(c.tree.children, replaced, ch.platform); i >= 0 {
			replaced[i] = true
			x.Manifests[i] = d
		} else {
			x.Manifests = append(x.Manifests, d)
		}
		c.result.Platforms = append(c.result.Platforms, ConvertedPlatform{
			Platform: ch.platform, Source: b.source, Manifest: ch.desc.Descriptor, SOCI: d.Descriptor, Index: b.index,
		})
	}
	p, err := json.Marshal(x)
	if err != nil {
		return fmt.Errorf("marshal image index: %w", err)
	}
	c.result.Index = ocispec.Descriptor{MediaType: x.MediaType, Digest: digest.FromBytes(p), Size: int64(len(p))}
	c.queue.addBytes(c.result.Index, p)
	w := Written{Desc: c.result.Index}
	for _, d := range x.Manifests {
		w.Children = append(w.Children, d.Descriptor)
	}
	c.result.Written = append(c.result.Written, w)
	return nil
}

// repoint has an attestation or a SOCI index that is about an image manifest name its new digest.
func (c *converter) repoint(ch *child) {
	var key string
	switch ch.kind {
	case kindAttestation:
		key = annotationReferenceDigest
	case kindSOCI:
		key = AnnotationImageManifestDigest
	default:
		return
	}
	if to, ok := c.moved[digest.Digest(ch.desc.Annotations[key])]; ok {
		ch.desc.Annotations = maps.Clone(ch.desc.Annotations)
		ch.desc.Annotations[key] = to.String()
	}
}

// slot returns which child is a SOCI index for platform p that is not replaced yet, -1 if none is.
func slot(children []child, replaced map[int]bool, p ocispec.Platform) int {
	want := platforms.FormatAll(platforms.Normalize(p))
	for i, ch := range children {
		have := ch.desc.Platform
		if ch.kind == kindSOCI && have != nil && !replaced[i] && platforms.FormatAll(platforms.Normalize(*have)) == want {
			return i
		}
	}
	return -1
}

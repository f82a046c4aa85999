// SPDX-License-Identifier: Apache-2.0

package index

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/ztoc"
)

// Bounds of a SOCI index.
const (
	MaxSize   = 4 << 20 // bytes; what registries take as a manifest
	MaxLayers = 4096
)

const docIndex = "SOCI index"

// emptyConfig is the content of every index's config.
const emptyConfig = "{}"

// Config is the descriptor of the config of an index of version v, whose content is "{}".
func (v Version) Config() ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType: v.ArtifactType(),
		Digest:    digest.FromString(emptyConfig),
		Size:      int64(len(emptyConfig)),
	}
}

// Marshal encodes the index byte for byte as the incumbent does. The descriptor
// has the media type of an OCI manifest and the index's artifact type.
func (x *Index) Marshal() ([]byte, ocispec.Descriptor, error) {
	if x.Version.ArtifactType() == "" {
		return nil, ocispec.Descriptor{}, fmt.Errorf("marshal SOCI index: no version %d", x.Version)
	}
	if (x.Version == V1) != (x.Subject != nil) {
		return nil, ocispec.Descriptor{}, fmt.Errorf("marshal SOCI index: version %d with subject %v", x.Version, x.Subject)
	}
	tool := x.BuildTool
	if tool == "" {
		tool = ztoc.DefaultBuildTool
	}
	layers := x.Layers
	if layers == nil {
		layers = []ocispec.Descriptor{} // a list, not null
	}
	p, err := json.Marshal(ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageManifest,
		Config:      x.Version.Config(),
		Layers:      layers,
		Subject:     x.Subject,
		Annotations: map[string]string{AnnotationBuildTool: tool},
	})
	if err != nil {
		return nil, ocispec.Descriptor{}, fmt.Errorf("marshal SOCI index: %w", err)
	}
	if len(p) > MaxSize {
		return nil, ocispec.Descriptor{}, fmt.Errorf("marshal SOCI index: %d bytes, more than %d", len(p), MaxSize)
	}
	desc := ocispec.Descriptor{
		MediaType:    ocispec.MediaTypeImageManifest,
		Digest:       digest.FromBytes(p),
		Size:         int64(len(p)),
		ArtifactType: x.Version.ArtifactType(),
	}
	return p, desc, nil
}

// indexDoc is what is read of an index manifest.
type indexDoc struct {
	specs.Versioned
	MediaType   string              `json:"mediaType"`
	Config      ocispec.Descriptor  `json:"config"`
	Layers      artifactList        `json:"layers"`
	Subject     *ocispec.Descriptor `json:"subject"`
	Annotations map[string]string   `json:"annotations"`
}

// Unmarshal decodes and validates an index manifest. Errors match ErrFormat. Layers
// of media types that this package does not know are kept, with valid digests and sizes.
func Unmarshal(p []byte) (*Index, error) {
	if len(p) > MaxSize {
		return nil, malformed(docIndex, "%d bytes, more than %d", len(p), MaxSize)
	}
	var m indexDoc
	if err := json.Unmarshal(p, &m); err != nil {
		return nil, malformed(docIndex, "%v", err)
	}
	x := &Index{Subject: m.Subject, Layers: m.Layers, BuildTool: m.Annotations[AnnotationBuildTool]}
	switch m.Config.MediaType {
	case MediaTypeV1:
		x.Version = V1
	case MediaTypeV2:
		x.Version = V2
	default:
		return nil, malformed(docIndex, "config media type %.100q", m.Config.MediaType)
	}
	if err := x.validate(&m); err != nil {
		return nil, err
	}
	return x, nil
}

func (x *Index) validate(m *indexDoc) error {
	if m.SchemaVersion != 2 {
		return malformed(docIndex, "schema version %d", m.SchemaVersion)
	}
	if m.MediaType != "" && m.MediaType != ocispec.MediaTypeImageManifest {
		return malformed(docIndex, "media type %.100q", m.MediaType)
	}
	if err := validate(m.Config); err != nil {
		return malformed(docIndex, "config: %v", err)
	}
	if (x.Version == V1) != (x.Subject != nil) {
		return malformed(docIndex, "version %d with subject %t", x.Version, x.Subject != nil)
	}
	if x.Subject != nil {
		if err := validate(*x.Subject); err != nil {
			return malformed(docIndex, "subject: %v", err)
		}
	}
	for i, d := range m.Layers {
		if err := validateLayer(d); err != nil {
			return malformed(docIndex, "layer %d: %v", i, err)
		}
	}
	return nil
}

// validateLayer checks one artifact of an index. An artifact of an unknown media
// type is for another reader: its annotations are no business of ours.
func validateLayer(d ocispec.Descriptor) error {
	if err := validate(d); err != nil {
		return err
	}
	switch d.MediaType {
	case MediaTypePrefetch:
		if d.Size > MaxPrefetchSize {
			return fmt.Errorf("prefetch artifact of %d bytes, more than %d", d.Size, MaxPrefetchSize)
		}
	case MediaTypeProfile:
		if d.Size > MaxProfileSize {
			return fmt.Errorf("profile of %d bytes, more than %d", d.Size, MaxProfileSize)
		}
	case MediaTypeZTOC, MediaTypeCompact:
	default:
		return nil
	}
	if d.Size == 0 {
		return fmt.Errorf("empty %s", d.MediaType)
	}
	if err := digest.Digest(d.Annotations[AnnotationLayerDigest]).Validate(); err != nil {
		return fmt.Errorf("annotation %s %.100q: %w", AnnotationLayerDigest, d.Annotations[AnnotationLayerDigest], err)
	}
	return nil
}

// validate checks what every descriptor must have.
func validate(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %.100q: %w", d.Digest, err)
	}
	if d.Size < 0 {
		return fmt.Errorf("size %d", d.Size)
	}
	return nil
}

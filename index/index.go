// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types and annotations of the format.
const (
	MediaTypeV1       = "application/vnd.amazon.soci.index.v1+json" // config media type = artifact type
	MediaTypeV2       = "application/vnd.amazon.soci.index.v2+json"
	MediaTypeZTOC     = "application/octet-stream"
	MediaTypePrefetch = "application/vnd.amazon.soci.prefetch.v1+json"
	MediaTypeCompact  = "application/vnd.seekoci.ztoc.compact.v1" // of compact zTOCs, which are not the incumbent's
	MediaTypeProfile  = "application/vnd.seekoci.profile.v1+json" // of profiles, which are not either; see FORMAT.md

	AnnotationBuildTool           = "com.amazon.soci.build-tool-identifier"
	AnnotationLayerDigest         = "com.amazon.soci.image-layer-digest"
	AnnotationLayerMediaType      = "com.amazon.soci.image-layer-mediaType"
	AnnotationSpanSize            = "com.amazon.soci.span-size"
	AnnotationDisableXattrs       = "com.amazon.soci.disable-xattrs"
	AnnotationIndexDigest         = "com.amazon.soci.index-digest"
	AnnotationImageManifestDigest = "com.amazon.soci.image-manifest-digest"
)

// Version is the version of a SOCI index manifest.
type Version int

// The versions: V1 is bound to its image by subject, V2 by annotation.
const (
	V1 Version = 1
	V2 Version = 2
)

// ArtifactType is the config media type that marks an index of version v, "" if there is no such version.
func (v Version) ArtifactType() string {
	switch v {
	case V1:
		return MediaTypeV1
	case V2:
		return MediaTypeV2
	}
	return ""
}

// Store is where an image and its index live: a content store, an OCI layout, a
// registry. Fetch returns an error that matches errdefs.ErrNotFound for
// missing content. Push of content that is there already is not an error.
// Both are called from several goroutines.
type Store interface {
	Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
	Push(ctx context.Context, desc ocispec.Descriptor, content io.Reader) error
}

// Index is a SOCI index.
type Index struct {
	Version   Version
	Subject   *ocispec.Descriptor  // the image manifest; V1 only
	Layers    []ocispec.Descriptor // zTOCs in image layer order, then prefetch artifacts, compact zTOCs, profiles
	BuildTool string
}

// ZTOC returns the descriptor of the zTOC of a layer. Of several the last counts.
func (x *Index) ZTOC(layer digest.Digest) (ocispec.Descriptor, bool) {
	return x.artifact(MediaTypeZTOC, layer)
}

// Compact returns the descriptor of the compact zTOC of a layer. Of several the last counts.
func (x *Index) Compact(layer digest.Digest) (ocispec.Descriptor, bool) {
	return x.artifact(MediaTypeCompact, layer)
}

// Prefetch returns the descriptor of the prefetch artifact of a layer. Of several the last counts.
func (x *Index) Prefetch(layer digest.Digest) (ocispec.Descriptor, bool) {
	return x.artifact(MediaTypePrefetch, layer)
}

// Profile returns the descriptor of the profile of a layer. Of several the last counts.
func (x *Index) Profile(layer digest.Digest) (ocispec.Descriptor, bool) {
	return x.artifact(MediaTypeProfile, layer)
}

func (x *Index) artifact(mediaType string, layer digest.Digest) (ocispec.Descriptor, bool) {
	for i := len(x.Layers) - 1; i >= 0; i-- {
		d := x.Layers[i]
		if d.MediaType == mediaType && d.Annotations[AnnotationLayerDigest] == string(layer) {
			return d, true
		}
	}
	return ocispec.Descriptor{}, false
}

// XattrsDisabled reports whether the index says of the zTOC z that its layer has
// neither xattrs nor opaque directories.
func XattrsDisabled(z ocispec.Descriptor) bool {
	return z.Annotations[AnnotationDisableXattrs] == "true"
}

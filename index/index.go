// SPDX-License-Identifier: Apache-2.0

// Package index is the SOCI index of an image: which zTOC belongs to which layer.
package index

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/ztoc"
)

// Media types and annotations of the format.
const (
	MediaTypeV1   = "application/vnd.amazon.soci.index.v1+json" // config media type = artifact type
	MediaTypeV2   = "application/vnd.amazon.soci.index.v2+json"
	MediaTypeZTOC = "application/octet-stream"

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

// Store is where an image and its index live: a content store, an OCI layout, a
// registry. Fetch returns an error that matches errdefs.ErrNotFound for
// missing content. Push of content that is there already is not an error.
type Store interface {
	Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
	Push(ctx context.Context, desc ocispec.Descriptor, content io.Reader) error
}

// Index is a SOCI index.
type Index struct {
	Version   Version
	Subject   *ocispec.Descriptor  // the image manifest; V1 only
	Layers    []ocispec.Descriptor // zTOCs in image layer order, then other artifacts
	BuildTool string
}

// ZTOC returns the descriptor of the zTOC of a layer.
func (x *Index) ZTOC(layer digest.Digest) (ocispec.Descriptor, bool) { panic("not yet") }

// Marshal encodes the index byte for byte as the incumbent does.
func (x *Index) Marshal() ([]byte, ocispec.Descriptor, error) { panic("not yet") }

// Unmarshal decodes and validates an index manifest.
func Unmarshal(p []byte) (*Index, error) { panic("not yet") }

// BuildOptions configures Build and Convert.
type BuildOptions struct {
	ZTOC         ztoc.BuildOptions
	MinLayerSize int64 // bytes; layers below get no zTOC; 0 means DefaultMinLayerSize, negative none
	// DisableXattrs marks zTOCs without xattrs and opaque directories (--optimizations xattr).
	DisableXattrs bool
	Workers       int // layers indexed at once; 0 means GOMAXPROCS
	// Reuse returns the zTOC already made of layer with this span size, if there is one; nil means none.
	Reuse func(layer digest.Digest, spanSize int64) (ocispec.Descriptor, bool)
	// OnLayer is told what became of each layer, in layer order, one call at a time; nil means nobody.
	OnLayer func(LayerResult)
	// OnProgress is told of compressed bytes read of layer, from many goroutines; nil means nobody.
	OnProgress func(layer ocispec.Descriptor, n int64)
}

// DefaultMinLayerSize is the incumbent's, in bytes.
const DefaultMinLayerSize = 10 << 20

// LayerResult says what became of one layer.
type LayerResult struct {
	Layer  ocispec.Descriptor
	ZTOC   ocispec.Descriptor // zero if skipped
	Reused bool
	Skip   string // reason in the incumbent's words; "" if not skipped
}

// Build makes the zTOCs of an image manifest and its SOCI index, pushes all of them to
// store and returns the index and its descriptor. version V2 makes an unbound index.
func Build(ctx context.Context, store Store, manifest ocispec.Descriptor, version Version, opts BuildOptions) (*Index, ocispec.Descriptor, error) {
	panic("not yet")
}

// Remote is what Find asks: a registry repository.
type Remote interface {
	Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
	Resolve(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, error)
	Referrers(ctx context.Context, subject ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error)
}

// FindOptions says where Find may look.
type FindOptions struct {
	Digest digest.Digest // explicit index; looked at first, alone
	V1, V2 bool          // discovery of these versions
}

// Find fetches the SOCI index of an image manifest. An error that matches ErrNone says there is none.
func Find(ctx context.Context, remote Remote, manifest digest.Digest, opts FindOptions) (*Index, ocispec.Descriptor, error) {
	panic("not yet")
}

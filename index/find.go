// SPDX-License-Identifier: Apache-2.0

package index

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxReferrers is how many v1 indexes of one image Find looks at.
const maxReferrers = 16

// profileWait is how long a better index is looked for when there is one already.
const profileWait = time.Second

// Remote is what Find asks: a registry repository. Errors about what is not there
// match errdefs.ErrNotFound.
type Remote interface {
	Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
	Resolve(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, error)
	Referrers(ctx context.Context, subject ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error)
}

// FindOptions says where Find may look.
type FindOptions struct {
	Digest digest.Digest // explicit index; looked at first, alone
	V1, V2 bool          // discovery of these versions
	// Manifest are the bytes of the image manifest if the caller has them, which saves two requests; nil means
	// they are fetched. They are verified against the digest.
	Manifest []byte
	// Bound accepts no index but the one that the image manifest names: whoever can push to a
	// repository can add a referrer, but not change a manifest. With V1 there is nothing to be found.
	Bound   bool
	MaxSize int64 // bytes of the index; 0 means the package's MaxSize, which is the most
}

// Find fetches the SOCI index of an image manifest. An error that matches ErrNone says there is none,
// one that matches ErrUnbound that opts.Bound rules out where it was to be looked for.
//
// The explicit digest comes first, then the manifest's v2 annotation, then v1 referrers.
// An annotation that names an index which is missing or malformed is an error; it does
// not make Find look for another index. Of several referrers the first in order of digest
// counts that is an index of this manifest and lists a profile, or else the first that is one:
// what lists a profile is looked for no longer than a second.
func Find(ctx context.Context, remote Remote, manifest digest.Digest, opts FindOptions) (*Index, ocispec.Descriptor, error) {
	if err := manifest.Validate(); err != nil {
		return nil, ocispec.Descriptor{}, fmt.Errorf("find SOCI index: image manifest %.100q: %w", manifest, err)
	}
	if opts.MaxSize <= 0 {
		opts.MaxSize = MaxSize
	}
	if opts.Digest != "" && !opts.Bound {
		return fetchIndex(ctx, remote, opts.Digest, opts.MaxSize)
	}
	if opts.V2 || opts.Digest != "" {
		named, err := annotated(ctx, remote, manifest, opts.Manifest)
		switch {
		case err != nil:
			return nil, ocispec.Descriptor{}, err
		case opts.Digest != "" && named != opts.Digest:
			return nil, ocispec.Descriptor{}, fmt.Errorf("SOCI index %.100q of image manifest %s: %w", opts.Digest, manifest, ErrUnbound)
		case named != "":
			x, desc, err := fetchIndex(ctx, remote, named, opts.MaxSize)
			if err != nil {
				return nil, ocispec.Descriptor{}, fmt.Errorf("named by image manifest %s: %w", manifest, err)
			}
			return x, desc, nil
		}
	}
	switch {
	case opts.V1 && opts.Bound:
		return nil, ocispec.Descriptor{}, fmt.Errorf("referrers of image manifest %s: %w", manifest, ErrUnbound)
	case opts.V1:
		return findReferrer(ctx, remote, manifest, opts.MaxSize)
	}
	return nil, ocispec.Descriptor{}, fmt.Errorf("image manifest %s: %w", manifest, ErrNone)
}

// annotated returns the index digest that the image manifest names, "" if it names none.
func annotated(ctx context.Context, remote Remote, dgst digest.Digest, content []byte) (digest.Digest, error) {
	desc := ocispec.Descriptor{Digest: dgst, Size: int64(len(content))}
	if content == nil {
		var err error
		if desc, err = remote.Resolve(ctx, dgst.String()); err != nil {
			return "", fmt.Errorf("resolve image manifest %s: %w", dgst, err)
		}
		if desc.Digest != dgst {
			return "", fmt.Errorf("resolve image manifest %s: got %s: %w", dgst, desc.Digest, ErrDigest)
		}
		if content, err = ReadAll(ctx, remote, desc, MaxManifestSize); err != nil {
			return "", fmt.Errorf("read image manifest: %w", err)
		}
	} else if len(content) > MaxManifestSize || dgst.Algorithm().FromBytes(content) != dgst {
		return "", fmt.Errorf("image manifest %s: %w", dgst, ErrDigest)
	}
	m, err := parseManifest(content, desc)
	if err != nil {
		return "", err
	}
	return digest.Digest(m.Annotations[AnnotationIndexDigest]), nil
}

// fetchIndex fetches the index with a digest, of at most limit bytes.
func fetchIndex(ctx context.Context, remote Remote, dgst digest.Digest, limit int64) (*Index, ocispec.Descriptor, error) {
	if err := dgst.Validate(); err != nil {
		return nil, ocispec.Descriptor{}, fmt.Errorf("SOCI index %.100q: %w", dgst, err)
	}
	desc, err := remote.Resolve(ctx, dgst.String())
	if err != nil {
		return nil, ocispec.Descriptor{}, fmt.Errorf("resolve SOCI index %s: %w", dgst, err)
	}
	if desc.Digest != dgst {
		return nil, ocispec.Descriptor{}, fmt.Errorf("resolve SOCI index %s: got %s: %w", dgst, desc.Digest, ErrDigest)
	}
	return readIndex(ctx, remote, desc, limit)
}

// findReferrer fetches the v1 index of an image manifest, of at most limit bytes.
func findReferrer(ctx context.Context, remote Remote, manifest digest.Digest, limit int64) (*Index, ocispec.Descriptor, error) {
	subject := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: manifest}
	list, err := remote.Referrers(ctx, subject, MediaTypeV1)
	if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return nil, ocispec.Descriptor{}, fmt.Errorf("list referrers of image manifest %s: %w", manifest, err)
	}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b ocispec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	var reasons []error
	var first *Index
	var firstDesc ocispec.Descriptor
	rctx := ctx
	for _, desc := range list[:min(len(list), maxReferrers)] {
		x, desc, err := readIndex(rctx, remote, desc, limit)
		switch {
		case ctx.Err() != nil:
			return nil, ocispec.Descriptor{}, fmt.Errorf("find SOCI index of image manifest %s: %w", manifest, ctx.Err())
		case rctx.Err() != nil:
			return first, firstDesc, nil
		case err != nil:
			reasons = append(reasons, err)
		case x.Subject == nil || x.Subject.Digest != manifest:
			reasons = append(reasons, malformed(docIndex, "%s: not of this image manifest", desc.Digest))
		case slices.ContainsFunc(x.Layers, func(d ocispec.Descriptor) bool { return d.MediaType == MediaTypeProfile }):
			return x, desc, nil
		case first == nil:
			first, firstDesc = x, desc
			var cancel context.CancelFunc
			rctx, cancel = context.WithTimeout(ctx, profileWait)
			defer cancel()
		}
	}
	if first != nil {
		return first, firstDesc, nil
	}
	return nil, ocispec.Descriptor{}, none(manifest, reasons)
}

// none is the error for no usable referrer. It matches ErrNone only if asking again would give the
// same answer: not if an index could not be fetched.
func none(manifest digest.Digest, reasons []error) error {
	for _, err := range reasons {
		if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrDigest) && !errors.Is(err, ErrSize) && !errors.Is(err, errdefs.ErrNotFound) {
			return fmt.Errorf("find SOCI index of image manifest %s: %w", manifest, err)
		}
	}
	if len(reasons) > 0 {
		return fmt.Errorf("image manifest %s: %w: %d referrers, none usable, the first: %w", manifest, ErrNone, len(reasons), reasons[0])
	}
	return fmt.Errorf("image manifest %s: %w", manifest, ErrNone)
}

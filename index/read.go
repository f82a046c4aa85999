// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/ztoc"
)

// Read fetches the index desc, verifies and decodes it. The descriptor returned has
// the artifact type set.
func Read(ctx context.Context, from Fetcher, desc ocispec.Descriptor) (*Index, ocispec.Descriptor, error) {
	return readIndex(ctx, from, desc, MaxSize)
}

// readIndex is Read of an index of at most limit bytes, and MaxSize.
func readIndex(ctx context.Context, from Fetcher, desc ocispec.Descriptor, limit int64) (*Index, ocispec.Descriptor, error) {
	p, err := ReadAll(ctx, from, desc, min(limit, MaxSize))
	if err != nil {
		return nil, ocispec.Descriptor{}, fmt.Errorf("read SOCI index: %w", err)
	}
	x, err := Unmarshal(p)
	if err != nil {
		return nil, ocispec.Descriptor{}, fmt.Errorf("read SOCI index %s: %w", desc.Digest, err)
	}
	desc.ArtifactType = x.Version.ArtifactType()
	return x, desc, nil
}

// ReadZTOC fetches the zTOC desc, of either format, verifies and opens it.
func ReadZTOC(ctx context.Context, from Fetcher, desc ocispec.Descriptor) (*ztoc.Reader, error) {
	p, err := ReadAll(ctx, from, desc, ztoc.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("read zTOC: %w", err)
	}
	z, err := ztoc.Open(p)
	if err != nil {
		return nil, fmt.Errorf("read zTOC %s: %w", desc.Digest, err)
	}
	return z, nil
}

// ReadPrefetch fetches the prefetch artifact desc, verifies and decodes it.
func ReadPrefetch(ctx context.Context, from Fetcher, desc ocispec.Descriptor) (*Prefetch, error) {
	p, err := ReadAll(ctx, from, desc, MaxPrefetchSize)
	if err != nil {
		return nil, fmt.Errorf("read prefetch artifact: %w", err)
	}
	f, err := UnmarshalPrefetch(p)
	if err != nil {
		return nil, fmt.Errorf("read prefetch artifact %s: %w", desc.Digest, err)
	}
	return f, nil
}

// ReadProfile fetches the profile desc, verifies and decodes it.
func ReadProfile(ctx context.Context, from Fetcher, desc ocispec.Descriptor) (*Profile, error) {
	p, err := ReadAll(ctx, from, desc, MaxProfileSize)
	if err != nil {
		return nil, fmt.Errorf("read profile: %w", err)
	}
	f, err := UnmarshalProfile(p)
	if err != nil {
		return nil, fmt.Errorf("read profile %s: %w", desc.Digest, err)
	}
	return f, nil
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/cmd/internal/artifacts"
	"github.com/seekoci/seekoci/cmd/internal/store"
	"github.com/seekoci/seekoci/index"
)

// overlay opens containerd's content store and the soci store.
func (e *env) overlay(ctx context.Context) (o store.Overlay, err error) {
	if o.Images, err = e.images(ctx); err != nil {
		return o, err
	}
	o.Artifacts, err = e.layout(ctx)
	return o, err
}

// indexStore is the store to index an image with: the image is read from
// containerd, its index goes to the store of --content-store.
func (e *env) indexStore(ctx context.Context) (contentStore, error) {
	if !e.useSOCI {
		return e.images(ctx)
	}
	return e.overlay(ctx)
}

// convertStore is the store to convert an image with: whatever becomes part of
// the image goes to containerd, and to the soci store too if that is asked for.
func (e *env) convertStore(ctx context.Context) (contentStore, error) {
	if !e.useSOCI {
		return e.images(ctx)
	}
	o, err := e.overlay(ctx)
	return store.Tee{Overlay: o}, err
}

// layout opens the soci store.
func (e *env) layout(ctx context.Context) (*store.Layout, error) {
	if err := e.makeRoot(); err != nil {
		return nil, err
	}
	return store.OpenLayout(ctx, filepath.Join(e.root, "content"))
}

// reuseFunc finds a zTOC of a layer that was made earlier, for index.BuildOptions.
type reuseFunc = func(layer digest.Digest, mediaType string, spanSize int64) (ocispec.Descriptor, bool)

// reuse returns the function that finds zTOCs made earlier, and protects them by
// the lease of ctx. What is not in all of stores is made anew, and a failing
// database only means that nothing is found.
func (e *env) reuse(ctx context.Context, stores ...index.Fetcher) reuseFunc {
	return func(layer digest.Digest, mediaType string, spanSize int64) (ocispec.Descriptor, bool) {
		db, err := e.db()
		if err != nil {
			return ocispec.Descriptor{}, false
		}
		z, err := db.ZTOC(layer, mediaType, spanSize)
		if err != nil {
			return ocispec.Descriptor{}, false
		}
		desc := ocispec.Descriptor{MediaType: z.MediaType, Digest: z.Digest, Size: z.Size}
		if e.protect(ctx, z.Digest) != nil {
			return ocispec.Descriptor{}, false
		}
		for _, st := range stores {
			r, err := st.Fetch(ctx, desc)
			if err != nil {
				return ocispec.Descriptor{}, false
			}
			r.Close()
		}
		return desc, true
	}
}

// protect adds a blob to the lease of ctx.
func (e *env) protect(ctx context.Context, dgst digest.Digest) error {
	id, ok := leases.FromContext(ctx)
	if !ok {
		return nil
	}
	c, err := e.containerd(ctx)
	if err != nil {
		return err
	}
	return c.LeasesService().AddResource(ctx, leases.Lease{ID: id}, leases.Resource{ID: dgst.String(), Type: "content"})
}

// bound says which image manifest an index is of.
type bound struct {
	manifest digest.Digest
	image    digest.Digest // the target of the image
	platform string
}

// record enters an index and what it lists into the artifacts database.
func (e *env) record(x *index.Index, desc ocispec.Descriptor, b bound) error {
	entries := make([]artifacts.Entry, 0, len(x.Layers)+1)
	for _, d := range x.Layers {
		if a, ok := artifacts.EntryOf(d); ok {
			entries = append(entries, a)
		}
	}
	entries = append(entries, artifacts.Entry{
		Digest:         desc.Digest,
		Size:           desc.Size,
		OriginalDigest: b.manifest,
		ImageDigest:    b.image,
		Platform:       b.platform,
		Type:           artifacts.TypeIndex,
		MediaType:      ocispec.MediaTypeImageManifest,
		ArtifactType:   x.Version.ArtifactType(),
	})
	db, err := e.db()
	if err != nil {
		return err
	}
	if err := db.Add(entries...); err != nil {
		return fmt.Errorf("record SOCI index %s: %w", desc.Digest, err)
	}
	return nil
}

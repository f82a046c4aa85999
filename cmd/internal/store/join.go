// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"io"
	"iter"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Overlay keeps artifacts in a layout of their own, beside the images in
// containerd. It fetches from both.
type Overlay struct {
	Artifacts *Layout
	Images    *Containerd
}

// Fetch opens the blob of desc; a size of 0 stands for unknown.
func (o Overlay) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := o.Artifacts.Fetch(ctx, desc)
	if errdefs.IsNotFound(err) {
		return o.Images.Fetch(ctx, desc)
	}
	return r, err
}

// Push writes the blob of desc to the artifacts unless it is there.
func (o Overlay) Push(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	return o.Artifacts.Push(ctx, desc, r)
}

// Delete removes a blob from the artifacts.
func (o Overlay) Delete(ctx context.Context, dgst digest.Digest) error {
	return o.Artifacts.Delete(ctx, dgst)
}

// Blobs walks the artifacts.
func (o Overlay) Blobs(ctx context.Context) iter.Seq2[ocispec.Descriptor, error] {
	return o.Artifacts.Blobs(ctx)
}

// Tee is an Overlay that pushes to both: what becomes part of an image must be
// in containerd.
type Tee struct{ Overlay }

// Push writes the blob of desc to the artifacts and to containerd unless it is there.
func (t Tee) Push(ctx context.Context, desc ocispec.Descriptor, r io.Reader) (err error) {
	if err := t.Artifacts.Push(ctx, desc, r); err != nil {
		return err
	}
	again, err := t.Artifacts.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := again.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("push %s: %w", desc.Digest, cerr)
		}
	}()
	return t.Images.Push(ctx, desc, again)
}

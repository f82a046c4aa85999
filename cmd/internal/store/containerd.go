// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// readBuffer makes few, large reads of what would be one call each.
	readBuffer = 1 << 20
	// abortTimeout bounds the clean-up after a failed ingest.
	abortTimeout = 10 * time.Second
)

// Containerd is the content store of containerd, in the namespace of its
// client. It is safe for concurrent use.
type Containerd struct {
	cs content.Store
}

// NewContainerd returns the store that keeps its content in cs.
func NewContainerd(cs content.Store) *Containerd {
	return &Containerd{cs: cs}
}

// Fetch opens the blob of desc; a size of 0 stands for unknown.
func (c *Containerd) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	ra, err := c.OpenAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(io.NewSectionReader(ra, 0, ra.Size()), readBuffer)
	return blobReader{during(ctx, r), ra}, nil
}

// OpenAt opens the blob of desc for reads anywhere in it; a size of 0 stands for unknown.
func (c *Containerd) OpenAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if err := checkDigest(desc.Digest); err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	ra, err := c.cs.ReaderAt(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("fetch %s from the containerd content store: %w", desc.Digest, err)
	}
	if desc.Size > 0 && ra.Size() != desc.Size {
		defer ra.Close()
		return nil, fmt.Errorf("fetch %s from the containerd content store: %d bytes, its descriptor says %d",
			desc.Digest, ra.Size(), desc.Size)
	}
	return ra, nil
}

// Push writes the blob of desc unless it is there. A manifest is labelled so
// that containerd's garbage collector keeps its children as long as itself.
func (c *Containerd) Push(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	if err := c.push(ctx, desc, r); err != nil {
		return fmt.Errorf("push %s to the containerd content store: %w", desc.Digest, err)
	}
	return nil
}

func (c *Containerd) push(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	if err := checkDigest(desc.Digest); err != nil {
		return err
	}
	var labels map[string]string
	if isManifest(desc.MediaType) {
		p, err := io.ReadAll(io.LimitReader(r, MaxManifestSize+1))
		if err != nil {
			return err
		}
		if len(p) > MaxManifestSize {
			return fmt.Errorf("manifest of more than %d bytes", MaxManifestSize)
		}
		if labels, err = gcLabels(p); err != nil {
			return err
		}
		r = bytes.NewReader(p)
	}
	ref := "soci-" + desc.Digest.String()
	w, err := content.OpenWriter(ctx, c.cs, content.WithRef(ref), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		return c.label(ctx, desc.Digest, labels)
	}
	if err != nil {
		return err
	}
	err = content.Copy(ctx, w, r, desc.Size, desc.Digest, content.WithLabels(labels))
	cerr := w.Close()
	if err == nil {
		return cerr
	}
	// The caller's context may be what ended the copy.
	actx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	if aerr := c.cs.Abort(actx, ref); aerr != nil && !errdefs.IsNotFound(aerr) {
		return fmt.Errorf("%w; abort ingest %s: %v", err, ref, aerr)
	}
	return err
}

// label adds labels to a blob that is there already.
func (c *Containerd) label(ctx context.Context, dgst digest.Digest, labels map[string]string) error {
	if len(labels) == 0 {
		return nil
	}
	fields := make([]string, 0, len(labels))
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		fields = append(fields, "labels."+k)
	}
	_, err := c.cs.Update(ctx, content.Info{Digest: dgst, Labels: labels}, fields...)
	return err
}

// Delete removes a blob.
func (c *Containerd) Delete(ctx context.Context, dgst digest.Digest) error {
	if err := c.cs.Delete(ctx, dgst); err != nil {
		return fmt.Errorf("delete %s from the containerd content store: %w", dgst, err)
	}
	return nil
}

// Blobs walks the digests and sizes of all blobs.
func (c *Containerd) Blobs(ctx context.Context) iter.Seq2[ocispec.Descriptor, error] {
	return func(yield func(ocispec.Descriptor, error) bool) {
		stop := errors.New("enough")
		err := c.cs.Walk(ctx, func(info content.Info) error {
			if !yield(ocispec.Descriptor{Digest: info.Digest, Size: info.Size}, nil) {
				return stop
			}
			return nil
		})
		if err != nil && !errors.Is(err, stop) {
			yield(ocispec.Descriptor{}, fmt.Errorf("walk the containerd content store: %w", err))
		}
	}
}

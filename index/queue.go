// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxHeld is how many bytes of zTOCs a build keeps in memory.
const maxHeld = 64 << 20

// queue is what is to be pushed when all of it is known to be good, in order.
// Close it. hold may be called from many goroutines.
type queue struct {
	limit  int64 // bytes that hold keeps in memory
	blobs  []blob
	queued map[key]bool

	mu    sync.Mutex // guards what follows
	held  int64      // bytes in memory
	files []*os.File // unlinked, with the content beyond limit
}

// key tells blobs apart: one content may be there under two media types.
type key struct {
	dgst      digest.Digest
	mediaType string
}

type blob struct {
	desc    ocispec.Descriptor
	content io.ReaderAt
}

// hold keeps p until the queue is closed, in memory or in a file.
func (q *queue) hold(p []byte) (io.ReaderAt, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.held+int64(len(p)) <= q.limit {
		q.held += int64(len(p))
		return bytes.NewReader(p), nil
	}
	f, err := os.CreateTemp("", "soci-ztoc-*")
	if err != nil {
		return nil, fmt.Errorf("hold %d bytes: %w", len(p), err)
	}
	q.files = append(q.files, f)
	if err := os.Remove(f.Name()); err != nil {
		return nil, fmt.Errorf("hold %d bytes: %w", len(p), err)
	}
	if _, err := f.Write(p); err != nil {
		return nil, fmt.Errorf("hold %d bytes: %w", len(p), err)
	}
	return f, nil
}

// add queues a blob; nil content is in the store already. A blob is pushed once.
func (q *queue) add(desc ocispec.Descriptor, content io.ReaderAt) {
	k := key{desc.Digest, desc.MediaType}
	if content == nil || q.queued[k] {
		return
	}
	if q.queued == nil {
		q.queued = make(map[key]bool)
	}
	q.queued[k] = true
	q.blobs = append(q.blobs, blob{desc, content})
}

func (q *queue) addBytes(desc ocispec.Descriptor, p []byte) { q.add(desc, bytes.NewReader(p)) }

// push pushes everything, in the order in which it was queued.
func (q *queue) push(ctx context.Context, store Store) error {
	for _, b := range q.blobs {
		if err := ctx.Err(); err != nil {
			return err
		}
		// The annotations are those of the place where a descriptor is listed, not of the content.
		desc := ocispec.Descriptor{
			MediaType: b.desc.MediaType, Digest: b.desc.Digest, Size: b.desc.Size, ArtifactType: b.desc.ArtifactType,
		}
		if err := store.Push(ctx, desc, io.NewSectionReader(b.content, 0, desc.Size)); err != nil {
			return fmt.Errorf("push %s: %w", desc.Digest, err)
		}
	}
	return nil
}

// close lets go of what the queue holds.
func (q *queue) close() {
	for _, f := range q.files {
		_ = f.Close() // it has no name and nobody reads it any more
	}
}

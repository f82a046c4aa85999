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
	limit  int64 // bytes that hold takes in memory
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

// pageSize is how many bytes of memory hold takes at a time.
const pageSize = 64 << 10

// hold keeps what write writes until the queue is closed, in memory as long as there is
// room and otherwise in a file. The descriptor has its digest and size.
func (q *queue) hold(write func(io.Writer) error) (io.ReaderAt, ocispec.Descriptor, error) {
	h := &held{queue: q, sum: digest.Canonical.Digester()}
	if err := write(h); err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{Digest: h.sum.Digest(), Size: h.size}
	if h.file != nil {
		return h.file, desc, nil
	}
	return h, desc, nil
}

// reserve takes n bytes of the memory there is for content, and reports whether there are.
func (q *queue) reserve(n int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.held+n > q.limit {
		return false
	}
	q.held += n
	return true
}

// tempFile returns a file without a name, which is closed with the queue.
func (q *queue) tempFile() (*os.File, error) {
	f, err := os.CreateTemp("", "soci-ztoc-*")
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	q.files = append(q.files, f)
	q.mu.Unlock()
	return f, os.Remove(f.Name())
}

// held is content on its way to a queue and, if it stays in memory, in it.
type held struct {
	queue *queue
	sum   digest.Digester
	size  int64
	pages [][]byte // all full but the last
	file  *os.File // instead of pages; nil while there is memory
}

// Write appends p.
func (h *held) Write(p []byte) (int, error) {
	_, _ = h.sum.Hash().Write(p) // a hash does not fail
	h.size += int64(len(p))
	for rest := p; len(rest) > 0; {
		if h.file != nil {
			if _, err := h.file.Write(rest); err != nil {
				return 0, fmt.Errorf("hold %d bytes: %w", h.size, err)
			}
			break
		}
		if last := len(h.pages) - 1; last >= 0 && len(h.pages[last]) < pageSize {
			n := min(len(rest), pageSize-len(h.pages[last]))
			h.pages[last] = append(h.pages[last], rest[:n]...)
			rest = rest[n:]
			continue
		}
		if h.queue.reserve(pageSize) {
			h.pages = append(h.pages, make([]byte, 0, pageSize))
			continue
		}
		if err := h.spill(); err != nil {
			return 0, fmt.Errorf("hold %d bytes: %w", h.size, err)
		}
	}
	return len(p), nil
}

// spill moves the content to a file.
func (h *held) spill() (err error) {
	if h.file, err = h.queue.tempFile(); err != nil {
		return err
	}
	for _, p := range h.pages {
		if _, err := h.file.Write(p); err != nil {
			return err
		}
		h.queue.reserve(-pageSize)
	}
	h.pages = nil
	return nil
}

// ReadAt implements io.ReaderAt.
func (h *held) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		at := off + int64(n)
		if at >= h.size {
			return n, io.EOF
		}
		n += copy(p[n:], h.pages[at/pageSize][at%pageSize:])
	}
	return n, nil
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

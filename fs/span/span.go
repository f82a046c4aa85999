// SPDX-License-Identifier: Apache-2.0

// Package span is the store of a node's spans: what is fetched, verified and inflated once stays on disk.
package span

import (
	"context"

	"github.com/seekoci/seekoci/ztoc"
)

// Source is where the compressed bytes of a layer come from.
type Source interface {
	// ReadAt fills p with the bytes at off, all of them or an error.
	ReadAt(ctx context.Context, p []byte, off int64) error
	Size() int64
}

// Options configures Open.
type Options struct {
	MaxFetch int64 // bytes of one coalesced range request; 0 means 16 MiB
	Retries  int   // refetches of a span whose digest does not match; 0 means none
}

// Store is the directory of all layers' spans.
type Store struct{}

// Open opens the store at dir, creating it if needed.
func Open(dir string, opts Options) (*Store, error) { panic("not yet") }

// Layer opens the spans of the layer key (a file name), whose zInfo is zi and whose bytes come from src.
// Layers opened twice under one key are the same *Layer, reference counted.
func (s *Store) Layer(key string, zi *ztoc.ZInfo, src Source) (*Layer, error) { panic("not yet") }

// Remove deletes the layer's spans from disk; it must be closed.
func (s *Store) Remove(key string) error { panic("not yet") }

// Close waits for the fetches under way.
func (s *Store) Close() error { panic("not yet") }

// Layer is one layer's spans.
type Layer struct{}

// ReadAt fills p with the layer's uncompressed bytes at off, all of them or an error.
func (l *Layer) ReadAt(ctx context.Context, p []byte, off int64) error { panic("not yet") }

// Stats is a copy of a layer's counters.
type Stats struct {
	Spans         int   // of the layer
	SpansPresent  int   // on disk
	SpansFetched  int64 // since Open
	Requests      int64 // range requests made
	BytesFetched  int64 // compressed bytes fetched since Open
	BytesServed   int64 // uncompressed bytes read by ReadAt
	CompressedLen int64
	FetchErrors   int64
}

// Stats returns the layer's counters.
func (l *Layer) Stats() Stats { panic("not yet") }

// Close releases the layer.
func (l *Layer) Close() error { panic("not yet") }

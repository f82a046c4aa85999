// SPDX-License-Identifier: Apache-2.0

// Package indextest is a store in memory for tests of what reads or writes SOCI
// indexes, and images to put into it.
//
// A [Store] is an index.Store and an index.Remote at once; a [Layer] becomes part of an
// image with [Store.Image].
//
//	var s indextest.Store
//	manifest := s.Image(ocispec.Platform{OS: "linux", Architecture: "amd64"}, indextest.Layer{Content: layer})
//	x, desc, err := index.Build(ctx, &s, manifest, index.V1, index.BuildOptions{MinLayerSize: -1})
//
// # Limits
//
// Everything is in memory and copied on the way in.
//
// # Decisions
//
//   - Failures are the test's: Store.OnFetch and Store.OnPush see every call first.
package indextest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Store is content in memory. The zero Store is empty. It is safe for concurrent use.
type Store struct {
	// OnFetch and OnPush, if not nil, see each call before the store does; an error is the call's.
	OnFetch, OnPush func(desc ocispec.Descriptor) error
	// WrapReader, if not nil, wraps what Fetch returns.
	WrapReader func(desc ocispec.Descriptor, r io.ReadCloser) io.ReadCloser

	mu     sync.Mutex // guards what follows
	blobs  map[digest.Digest]content
	order  []digest.Digest // of the blobs
	pushed []ocispec.Descriptor
}

type content struct {
	mediaType string
	bytes     []byte
}

// Add puts content into the store and returns its descriptor.
func (s *Store) Add(mediaType string, p []byte) ocispec.Descriptor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.add(mediaType, p)
}

func (s *Store) add(mediaType string, p []byte) ocispec.Descriptor {
	d := digest.FromBytes(p)
	if s.blobs == nil {
		s.blobs = make(map[digest.Digest]content)
	}
	if _, ok := s.blobs[d]; !ok {
		s.order = append(s.order, d)
	}
	s.blobs[d] = content{mediaType, bytes.Clone(p)}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(p))}
}

// Replace makes the store return p for d, whatever its digest is.
func (s *Store) Replace(d digest.Digest, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[d] = content{s.blobs[d].mediaType, bytes.Clone(p)}
}

// Delete removes content.
func (s *Store) Delete(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.blobs, d)
	s.order = slices.DeleteFunc(s.order, func(x digest.Digest) bool { return x == d })
}

// Bytes returns content, nil if the store does not have it.
func (s *Store) Bytes(d digest.Digest) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.blobs[d].bytes)
}

// Pushed returns what was pushed so far, in order.
func (s *Store) Pushed() []ocispec.Descriptor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.pushed)
}

// ForgetPushed makes Pushed begin anew.
func (s *Store) ForgetPushed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pushed = nil
}

// Fetch opens content.
func (s *Store) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.OnFetch != nil {
		if err := s.OnFetch(desc); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	c, ok := s.blobs[desc.Digest]
	s.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("content %s: %w", desc.Digest, errdefs.ErrNotFound)
	}
	rc := io.NopCloser(bytes.NewReader(c.bytes))
	if s.WrapReader != nil {
		return s.WrapReader(desc, rc), nil
	}
	return rc, nil
}

// Push stores content after verifying it.
func (s *Store) Push(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.OnPush != nil {
		if err := s.OnPush(desc); err != nil {
			return err
		}
	}
	p, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if digest.FromBytes(p) != desc.Digest || int64(len(p)) != desc.Size {
		return fmt.Errorf("push %s: content does not match", desc.Digest)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(desc.MediaType, p)
	s.pushed = append(s.pushed, desc)
	return nil
}

// Resolve returns the descriptor of content by digest.
func (s *Store) Resolve(ctx context.Context, dgst string) (ocispec.Descriptor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.blobs[digest.Digest(dgst)]
	if !ok {
		return ocispec.Descriptor{}, fmt.Errorf("content %s: %w", dgst, errdefs.ErrNotFound)
	}
	return ocispec.Descriptor{MediaType: c.mediaType, Digest: digest.Digest(dgst), Size: int64(len(c.bytes))}, ctx.Err()
}

// Referrers lists the manifests whose subject is subject, in the order in which they came.
func (s *Store) Referrers(ctx context.Context, subject ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []ocispec.Descriptor
	for _, d := range s.order {
		var m ocispec.Manifest
		p := s.blobs[d].bytes
		if json.Unmarshal(p, &m) != nil || m.Subject == nil || m.Subject.Digest != subject.Digest || m.Config.MediaType != artifactType {
			continue
		}
		list = append(list, ocispec.Descriptor{
			MediaType: m.MediaType, Digest: d, Size: int64(len(p)), ArtifactType: artifactType, Annotations: m.Annotations,
		})
	}
	return list, ctx.Err()
}

// Layer is a layer of an image to be made.
type Layer struct {
	Content   []byte
	MediaType string // "" means an OCI gzip layer
}

// Image puts an image with layers into the store and returns the descriptor of its manifest, which has
// the platform.
func (s *Store) Image(p ocispec.Platform, layers ...Layer) ocispec.Descriptor {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    s.Add(ocispec.MediaTypeImageConfig, must(json.Marshal(ocispec.Image{Platform: p}))),
	}
	for _, l := range layers {
		if l.MediaType == "" {
			l.MediaType = ocispec.MediaTypeImageLayerGzip
		}
		m.Layers = append(m.Layers, s.Add(l.MediaType, l.Content))
	}
	d := s.Add(m.MediaType, must(json.Marshal(m)))
	d.Platform = &p
	return d
}

// Index puts an image index that lists manifests into the store.
func (s *Store) Index(manifests ...ocispec.Descriptor) ocispec.Descriptor {
	return s.Add(ocispec.MediaTypeImageIndex, must(json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: manifests,
	})))
}

// Load puts the blobs of an OCI layout directory into the store and returns the manifests its index.json lists.
func (s *Store) Load(dir string) ([]ocispec.Descriptor, error) {
	files, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		p, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		if d := s.Add("", p); d.Digest.Encoded() != filepath.Base(f) {
			return nil, fmt.Errorf("load %s: content is %s", f, d.Digest)
		}
	}
	p, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return nil, err
	}
	var x ocispec.Index
	if err := json.Unmarshal(p, &x); err != nil {
		return nil, fmt.Errorf("load %s: %w", dir, err)
	}
	return x.Manifests, nil
}

// must returns v: what tests marshal can be marshalled.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

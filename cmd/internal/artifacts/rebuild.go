// SPDX-License-Identifier: Apache-2.0

package artifacts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/seekoci/seekoci/index"
)

// Content is a content store as Rebuild sees it.
type Content interface {
	// Blobs walks all blobs. Only Digest and Size of a descriptor are set.
	Blobs(ctx context.Context) iter.Seq2[ocispec.Descriptor, error]
	// Fetch opens a blob. The error for one that is gone meanwhile matches errdefs.ErrNotFound.
	Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
}

// Image says which image a manifest belongs to.
type Image struct {
	Digest   digest.Digest // the image's target
	Platform string        // as containerd formats it
}

// Rebuilt counts what Rebuild changed.
type Rebuilt struct {
	Removed, Added int
}

// Rebuild removes the entries whose blob is not in content and adds one for each artifact
// in content that has none, or a damaged one: indexes whose image manifest is known, v1 by subject and v2 by the
// manifest's annotation, and what they list. images tells the image of a manifest; one that is not in it gets an
// entry without image and platform.
func (db DB) Rebuild(ctx context.Context, content Content, images map[digest.Digest]Image) (Rebuilt, error) {
	// Of what another command adds while content is walked, the walk may see nothing.
	before, err := db.digests()
	if err != nil {
		return Rebuilt{}, err
	}
	s, err := scan(ctx, content)
	if err != nil {
		return Rebuilt{}, err
	}
	found := s.entries(images)
	var done Rebuilt
	err = db.update(func(root *bolt.Bucket) error {
		for _, dgst := range before {
			if _, ok := s.sizes[dgst]; ok || root.Bucket([]byte(dgst)) == nil {
				continue
			}
			if err := root.DeleteBucket([]byte(dgst)); err != nil {
				return fmt.Errorf("artifact %s: %w", dgst, err)
			}
			done.Removed++
		}
		for dgst, e := range found {
			if b := root.Bucket([]byte(dgst)); b != nil {
				if _, err := get(b, dgst); err == nil {
					continue
				}
			}
			if err := put(root, e); err != nil {
				return fmt.Errorf("artifact %s: %w", dgst, err)
			}
			done.Added++
		}
		return nil
	})
	if err != nil {
		return Rebuilt{}, err
	}
	return done, nil
}

// digests returns the artifacts that have an entry, a damaged one too.
func (db DB) digests() ([]digest.Digest, error) {
	var list []digest.Digest
	err := db.view(func(root *bolt.Bucket) error {
		return root.ForEachBucket(func(k []byte) error {
			list = append(list, digest.Digest(k))
			return nil
		})
	})
	return list, err
}

// scanned is what a walk over a content store found.
type scanned struct {
	sizes   map[digest.Digest]int64 // of all blobs
	indexes map[digest.Digest]*index.Index
	namedBy map[digest.Digest]digest.Digest // v2 index → image manifest
}

func scan(ctx context.Context, content Content) (*scanned, error) {
	s := &scanned{
		sizes:   make(map[digest.Digest]int64),
		indexes: make(map[digest.Digest]*index.Index),
		namedBy: make(map[digest.Digest]digest.Digest),
	}
	for desc, err := range content.Blobs(ctx) {
		if err != nil {
			return nil, fmt.Errorf("walk blobs: %w", err)
		}
		s.sizes[desc.Digest] = desc.Size
		if desc.Size > index.MaxSize {
			continue
		}
		err := s.look(ctx, content, desc)
		if errors.Is(err, errdefs.ErrNotFound) {
			delete(s.sizes, desc.Digest) // removed since it was listed
		} else if err != nil {
			return nil, fmt.Errorf("read blob %s: %w", desc.Digest, err)
		}
	}
	return s, nil
}

// look notes what the blob desc is, if it is an index or an image manifest that names one.
func (s *scanned) look(ctx context.Context, content Content, desc ocispec.Descriptor) (err error) {
	r, err := content.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := r.Close(); err == nil {
			err = cerr
		}
	}()
	var first [1]byte
	if n, err := io.ReadFull(r, first[:]); n == 0 || first[0] != '{' {
		if err == io.EOF {
			err = nil
		}
		return err
	}
	rest, err := io.ReadAll(io.LimitReader(r, index.MaxSize))
	if err != nil {
		return err
	}
	p := append(first[:], rest...)
	if desc.Digest.Algorithm().FromBytes(p) != desc.Digest {
		return nil // damaged: as good as not there
	}
	if x, err := index.Unmarshal(p); err == nil {
		s.indexes[desc.Digest] = x
		return nil
	}
	var m struct {
		Annotations map[string]string `json:"annotations"`
		Layers      []json.RawMessage `json:"layers"` // an image index has none
	}
	if json.Unmarshal(p, &m) == nil && len(m.Layers) > 0 {
		if named := m.Annotations[index.AnnotationIndexDigest]; named != "" {
			s.namedBy[digest.Digest(named)] = desc.Digest
		}
	}
	return nil
}

// entries returns the entries of the artifacts found.
func (s *scanned) entries(images map[digest.Digest]Image) map[digest.Digest]Entry {
	found := make(map[digest.Digest]Entry)
	for dgst, x := range s.indexes {
		maps.Copy(found, s.layers(x))
		manifest := s.namedBy[dgst]
		if x.Subject != nil {
			manifest = x.Subject.Digest
		}
		if manifest == "" {
			continue
		}
		found[dgst] = Entry{
			Digest:         dgst,
			Size:           s.sizes[dgst],
			OriginalDigest: manifest,
			ImageDigest:    images[manifest].Digest,
			Platform:       images[manifest].Platform,
			Type:           TypeIndex,
			MediaType:      ocispec.MediaTypeImageManifest,
			ArtifactType:   x.Version.ArtifactType(),
		}
	}
	return found
}

// layers returns the entries of what x lists and the content store has.
func (s *scanned) layers(x *index.Index) map[digest.Digest]Entry {
	found := make(map[digest.Digest]Entry)
	for _, d := range x.Layers {
		e, ok := EntryOf(d)
		if !ok {
			continue
		}
		if size, ok := s.sizes[d.Digest]; ok && size == d.Size {
			found[d.Digest] = e
		}
	}
	return found
}

// SPDX-License-Identifier: Apache-2.0

package registrytest

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	errUnknown = errors.New("unknown")
	errDigest  = errors.New("digest does not match")
)

// maxManifest bounds a manifest, in bytes.
const maxManifest = 4 << 20

// manifest is a manifest and what the registry reads out of it.
type manifest struct {
	desc    ocispec.Descriptor // with artifact type and annotations, as in a referrers list
	content []byte
	subject digest.Digest // "" means none
}

// repository is what was pushed under one name.
type repository struct {
	blobs     map[digest.Digest]bool
	manifests map[digest.Digest]manifest
	tags      map[string]digest.Digest
}

// store keeps what was pushed.
type store struct {
	dir string

	mu      sync.Mutex // guards what follows
	repos   map[string]*repository
	blobs   map[digest.Digest][]byte // without dir
	uploads map[string]*upload
}

// upload is a blob on its way.
type upload struct {
	mu   sync.Mutex // one request at a time
	repo string
	size int64
	hash digest.Digester
	mem  bytes.Buffer // without dir
	file *os.File     // with dir
}

func newStore(dir string) *store {
	return &store{
		dir:     dir,
		repos:   make(map[string]*repository),
		blobs:   make(map[digest.Digest][]byte),
		uploads: make(map[string]*upload),
	}
}

// repo returns the repository of name, made if need be. s.mu is held.
func (s *store) repo(name string) *repository {
	r := s.repos[name]
	if r == nil {
		r = &repository{make(map[digest.Digest]bool), make(map[digest.Digest]manifest), make(map[string]digest.Digest)}
		s.repos[name] = r
	}
	return r
}

func (s *store) path(dgst digest.Digest) string { return filepath.Join(s.dir, dgst.Encoded()) }

// blob opens a blob of a repository.
func (s *store) blob(repo string, dgst digest.Digest) (io.ReadSeekCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.repos[repo]; r == nil || !r.blobs[dgst] {
		return nil, errUnknown
	}
	if s.dir != "" {
		return os.Open(s.path(dgst))
	}
	return nopSeekCloser{bytes.NewReader(s.blobs[dgst])}, nil
}

type nopSeekCloser struct{ io.ReadSeeker }

func (nopSeekCloser) Close() error { return nil }

// begin starts an upload.
func (s *store) begin(repo string) (string, error) {
	u := &upload{repo: repo, hash: digest.Canonical.Digester()}
	if s.dir != "" {
		if err := os.MkdirAll(s.dir, 0o755); err != nil {
			return "", err
		}
		f, err := os.CreateTemp(s.dir, ".upload-")
		if err != nil {
			return "", err
		}
		u.file = f
	}
	id := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uploads[id] = u
	return id, nil
}

// upload returns the upload id of a repository.
func (s *store) upload(repo, id string) (*upload, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.uploads[id]; u != nil && u.repo == repo {
		return u, nil
	}
	return nil, errUnknown
}

// write appends to the upload. What came before an error stays.
func (u *upload) write(r io.Reader) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	var dst io.Writer = &u.mem
	if u.file != nil {
		dst = u.file
	}
	n, err := io.Copy(io.MultiWriter(dst, u.hash.Hash()), r)
	u.size += n
	return err
}

// finish makes the upload the blob dgst, and forgets it in any case.
func (s *store) finish(id string, u *upload, dgst digest.Digest) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.uploads, id)
	var err error
	if u.hash.Digest() != dgst {
		err = errDigest
	}
	if u.file != nil {
		err = errors.Join(err, u.file.Close())
		if err != nil {
			_ = os.Remove(u.file.Name())
			return err
		}
		if err := os.Rename(u.file.Name(), s.path(dgst)); err != nil {
			return err
		}
	} else if err != nil {
		return err
	} else {
		s.blobs[dgst] = u.mem.Bytes()
	}
	s.repo(u.repo).blobs[dgst] = true
	return nil
}

// cancel forgets an upload.
func (s *store) cancel(id string, u *upload) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.uploads, id)
	if u.file != nil {
		_ = u.file.Close()
		_ = os.Remove(u.file.Name())
	}
}

// parseManifest reads what the registry must know of a manifest.
func parseManifest(mediaType string, content []byte) (manifest, []ocispec.Descriptor, error) {
	var doc struct {
		ArtifactType string               `json:"artifactType"`
		Config       *ocispec.Descriptor  `json:"config"`
		Layers       []ocispec.Descriptor `json:"layers"`
		Subject      *ocispec.Descriptor  `json:"subject"`
		Annotations  map[string]string    `json:"annotations"`
	}
	if err := json.Unmarshal(content, &doc); err != nil {
		return manifest{}, nil, err
	}
	m := manifest{content: content, desc: ocispec.Descriptor{
		MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content)),
		ArtifactType: doc.ArtifactType, Annotations: doc.Annotations,
	}}
	needs := doc.Layers
	if doc.Config != nil {
		needs = append(needs, *doc.Config)
		if m.desc.ArtifactType == "" {
			m.desc.ArtifactType = doc.Config.MediaType
		}
	}
	if doc.Subject != nil {
		m.subject = doc.Subject.Digest
	}
	return m, needs, nil
}

// putManifest keeps a manifest under its digest, and under tag if there is one.
func (s *store) putManifest(repo, tag string, m manifest, needs []ocispec.Descriptor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repo(repo)
	for _, d := range needs {
		if !r.blobs[d.Digest] {
			return fmt.Errorf("blob %s: %w", d.Digest, errUnknown)
		}
	}
	r.manifests[m.desc.Digest] = m
	if tag != "" {
		r.tags[tag] = m.desc.Digest
	}
	return nil
}

// manifest returns the manifest of a tag or digest.
func (s *store) manifest(repo, ref string) (manifest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repos[repo]
	if r == nil {
		return manifest{}, errUnknown
	}
	dgst, ok := r.tags[ref]
	if !ok {
		dgst = digest.Digest(ref)
	}
	if m, ok := r.manifests[dgst]; ok {
		return m, nil
	}
	return manifest{}, errUnknown
}

// deleteManifest forgets a tag, or a manifest and its tags.
func (s *store) deleteManifest(repo, ref string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repos[repo]
	if r == nil {
		return false
	}
	if _, ok := r.tags[ref]; ok {
		delete(r.tags, ref)
		return true
	}
	dgst := digest.Digest(ref)
	_, ok := r.manifests[dgst]
	delete(r.manifests, dgst)
	maps.DeleteFunc(r.tags, func(_ string, d digest.Digest) bool { return d == dgst })
	return ok
}

// tags lists the tags of a repository in order.
func (s *store) tags(repo string) ([]string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repos[repo]
	if r == nil {
		return nil, false
	}
	return slices.Sorted(maps.Keys(r.tags)), true
}

// referrers lists the manifests of artifactType ("" means all) whose subject is dgst.
func (s *store) referrers(repo string, dgst digest.Digest, artifactType string) []ocispec.Descriptor {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := []ocispec.Descriptor{}
	r := s.repos[repo]
	if r == nil {
		return found
	}
	for _, d := range slices.Sorted(maps.Keys(r.manifests)) {
		m := r.manifests[d]
		if m.subject == dgst && (artifactType == "" || m.desc.ArtifactType == artifactType) {
			found = append(found, m.desc)
		}
	}
	return found
}

// SPDX-License-Identifier: Apache-2.0

package registrytest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// AddBlob puts a blob into a repository without a request.
func (s *Server) AddBlob(repo string, content io.Reader) (ocispec.Descriptor, error) {
	id, err := s.store.begin(repo)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("add blob to %s: %w", repo, err)
	}
	u, err := s.store.upload(repo, id)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("add blob to %s: %w", repo, err)
	}
	if err := u.write(content); err != nil {
		s.store.cancel(id, u)
		return ocispec.Descriptor{}, fmt.Errorf("add blob to %s: %w", repo, err)
	}
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: u.hash.Digest(), Size: u.size}
	if err := s.store.finish(id, u, desc.Digest); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("add blob to %s: %w", repo, err)
	}
	return desc, nil
}

// AddManifest puts a manifest into a repository without a request, under tag
// unless that is "". The blobs it names must be there.
func (s *Server) AddManifest(repo, tag, mediaType string, content []byte) (ocispec.Descriptor, error) {
	m, needs, err := parseManifest(mediaType, content)
	if err == nil {
		err = s.store.putManifest(repo, tag, m, needs)
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("add manifest to %s: %w", repo, err)
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: m.desc.Digest, Size: m.desc.Size}, nil
}

// begin counts a request, waits the latency and lets hook and faults have it
// first. It returns nil if they answered.
func (s *Server) begin(w http.ResponseWriter, r *Request) *shaper {
	s.stats.kinds[r.Kind].requests.Add(1)
	sh := &shaper{ResponseWriter: w, srv: s, req: r, began: time.Now()}
	sh.wait(s.opts.Latency)
	if s.opts.Hook != nil && s.opts.Hook(sh, r) {
		return nil
	}
	if sh.fault = s.meet(r); sh.fault != nil && sh.fault.answer(sh) {
		return nil
	}
	return sh
}

func (s *Server) serveMain(rw http.ResponseWriter, hr *http.Request) {
	r := classify(hr)
	w := s.begin(rw, r)
	if w == nil {
		return
	}
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if r.Kind == KindToken {
		s.token(w, r)
		return
	}
	if !s.allow(w, r) {
		return
	}
	switch r.Kind {
	case KindManifest:
		s.serveManifest(w, r)
	case KindBlob, KindRange:
		s.serveBlob(w, r)
	case KindReferrers:
		s.serveReferrers(w, r)
	case KindTags:
		s.serveTags(w, r)
	case KindUpload:
		s.serveUpload(w, r)
	default:
		if r.URL.Path != "/v2/" && r.URL.Path != "/v2" {
			http.NotFound(w, hr)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		writeJSON(w, struct{}{})
	}
}

func (s *Server) serveManifest(w http.ResponseWriter, r *Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		m, err := s.store.manifest(r.Repository, r.Reference)
		if err != nil {
			fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
			return
		}
		w.Header().Set("Content-Type", m.desc.MediaType)
		w.Header().Set("Docker-Content-Digest", m.desc.Digest.String())
		w.Header().Set("Content-Length", strconv.Itoa(len(m.content)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(m.content)
		}
	case http.MethodPut:
		s.putManifest(w, r)
	case http.MethodDelete:
		if !s.store.deleteManifest(r.Repository, r.Reference) {
			fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
			return
		}
		w.WriteHeader(http.StatusAccepted)
	default:
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "method not allowed")
	}
}

func (s *Server) putManifest(w http.ResponseWriter, r *Request) {
	content, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxManifest))
	if err != nil {
		fail(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", err.Error())
		return
	}
	m, needs, err := parseManifest(r.Header.Get("Content-Type"), content)
	if err != nil {
		fail(w, http.StatusBadRequest, "MANIFEST_INVALID", err.Error())
		return
	}
	tag := r.Reference
	if strings.Contains(tag, ":") {
		if tag != m.desc.Digest.String() {
			fail(w, http.StatusBadRequest, "DIGEST_INVALID", errDigest.Error())
			return
		}
		tag = ""
	}
	if err := s.store.putManifest(r.Repository, tag, m, needs); err != nil {
		fail(w, http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN", err.Error())
		return
	}
	if m.subject != "" && !s.opts.NoReferrers {
		w.Header().Set("OCI-Subject", m.subject.String())
	}
	w.Header().Set("Docker-Content-Digest", m.desc.Digest.String())
	w.Header().Set("Location", "/v2/"+r.Repository+"/manifests/"+m.desc.Digest.String())
	w.WriteHeader(http.StatusCreated)
}

func (s *Server) serveReferrers(w http.ResponseWriter, r *Request) {
	dgst, err := digest.Parse(r.Reference)
	if s.opts.NoReferrers {
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "DIGEST_INVALID", err.Error())
		return
	}
	artifactType := r.URL.Query().Get("artifactType")
	if artifactType != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	writeJSON(w, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: s.store.referrers(r.Repository, dgst, artifactType),
	})
}

func (s *Server) serveTags(w http.ResponseWriter, r *Request) {
	tags, ok := s.store.tags(r.Repository)
	if !ok || r.Reference != "list" {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN", "repository unknown")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	writeJSON(w, struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{r.Repository, tags})
}

func (s *Server) serveBlob(w http.ResponseWriter, r *Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "method not allowed")
		return
	}
	dgst := digest.Digest(r.Reference)
	b, err := s.store.blob(r.Repository, dgst)
	if errors.Is(err, errUnknown) {
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer b.Close()
	w.Header().Set("Docker-Content-Digest", dgst.String())
	if s.second != nil && r.Method == http.MethodGet {
		s.stats.redirects.Add(1)
		w.Header().Set("Location", s.secondURL(r.Repository, dgst))
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	s.content(w, r, b)
}

// content sends a blob or the range of it that is asked for.
func (s *Server) content(w http.ResponseWriter, r *Request, b io.ReadSeeker) {
	if s.opts.NoRange {
		r.Header.Del("Range")
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r.Request, "", time.Time{}, b)
}

// secondURL signs a URL of the second host.
func (s *Server) secondURL(repo string, dgst digest.Digest) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := url.Values{
		"X-Signature": {"secret-signature"},
		"gen":         {strconv.Itoa(s.generation)},
		"born":        {strconv.FormatInt(time.Now().UnixNano(), 10)},
	}
	return s.scheme() + "://" + s.SecondHost() + "/" + repo + "/" + dgst.String() + "?" + q.Encode()
}

// expired reports whether a URL of the second host works no more.
func (s *Server) expired(q url.Values) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	born, err := strconv.ParseInt(q.Get("born"), 10, 64)
	return err != nil || q.Get("gen") != strconv.Itoa(s.generation) ||
		s.opts.RedirectTTL > 0 && time.Since(time.Unix(0, born)) > s.opts.RedirectTTL
}

// serveSecond is the second host: object storage behind signed URLs.
func (s *Server) serveSecond(rw http.ResponseWriter, hr *http.Request) {
	repo, ref, _ := cutLast(strings.TrimPrefix(hr.URL.Path, "/"), "/")
	r := &Request{Request: hr, Kind: KindBlob, Repository: repo, Reference: ref, Second: true}
	if hr.Header.Get("Range") != "" {
		r.Kind = KindRange
	}
	s.stats.second.requests.Add(1)
	if hr.Header.Get("Authorization") != "" {
		s.stats.leaks.Add(1)
	}
	w := s.begin(rw, r)
	if w == nil {
		return
	}
	if s.expired(hr.URL.Query()) {
		status := s.opts.ExpiredStatus
		if status == 0 {
			status = http.StatusForbidden
		}
		http.Error(w, "<Error><Code>ExpiredToken</Code></Error>", status)
		return
	}
	b, err := s.store.blob(repo, digest.Digest(ref))
	if err != nil {
		http.NotFound(w, hr)
		return
	}
	defer b.Close()
	s.content(w, r, b)
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// SPDX-License-Identifier: Apache-2.0

package registrytest

import (
	"net/http"
	"strings"
	"sync/atomic"
)

// Kind is what a request is about.
type Kind int

// The kinds of requests. A read of a blob counts as KindRange when it asks for
// a range, else as KindBlob.
const (
	KindOther     Kind = iota // the version check, unknown paths
	KindManifest              // manifests, by tag or digest
	KindBlob                  // whole blobs
	KindRange                 // ranges of blobs
	KindReferrers             // the referrers API
	KindTags                  // lists of tags
	KindUpload                // any step of a blob upload
	KindToken                 // the token service
	numKinds
)

// String is the kind's name.
func (k Kind) String() string {
	names := [...]string{"other", "manifest", "blob", "range", "referrers", "tags", "upload", "token"}
	if k < 0 || int(k) >= len(names) {
		return "unknown"
	}
	return names[k]
}

// Request is one request and what it is about.
type Request struct {
	*http.Request
	Kind       Kind
	Repository string
	Reference  string // tag, digest or upload
	Second     bool   // made to the second host
}

// Count is how many requests of a kind came, and how many bytes of body left.
type Count struct {
	Requests, Bytes int64
}

// Stats says what was asked of the registry so far.
type Stats struct {
	Manifest, Blob, Range, Referrers, Tags, Upload, Token, Other Count

	// Second counts the requests to the second host, which are in Blob and Range as well.
	Second Count
	// Redirects is the number of reads sent to the second host.
	Redirects int64
	// Leaks is the number of requests to the second host that carried credentials.
	Leaks int64
}

type counter struct{ requests, bytes atomic.Int64 }

func (c *counter) count() Count { return Count{c.requests.Load(), c.bytes.Load()} }

type stats struct {
	kinds            [numKinds]counter
	second           counter
	redirects, leaks atomic.Int64
}

// Stats returns the counts so far.
func (s *Server) Stats() Stats {
	k := &s.stats.kinds
	return Stats{
		Manifest: k[KindManifest].count(), Blob: k[KindBlob].count(), Range: k[KindRange].count(),
		Referrers: k[KindReferrers].count(), Tags: k[KindTags].count(), Upload: k[KindUpload].count(),
		Token: k[KindToken].count(), Other: k[KindOther].count(),
		Second: s.stats.second.count(), Redirects: s.stats.redirects.Load(), Leaks: s.stats.leaks.Load(),
	}
}

// classify says what a request to the registry is about.
func classify(r *http.Request) *Request {
	q := &Request{Request: r}
	if r.URL.Path == "/token" {
		q.Kind = KindToken
		return q
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if !ok || path == "" {
		return q
	}
	for _, part := range []struct {
		mark string
		kind Kind
	}{
		{"/blobs/uploads/", KindUpload},
		{"/blobs/", KindBlob},
		{"/manifests/", KindManifest},
		{"/referrers/", KindReferrers},
		{"/tags/", KindTags},
	} {
		if repo, ref, ok := strings.Cut(path+trailing(path, part.mark), part.mark); ok && repo != "" {
			q.Kind, q.Repository, q.Reference = part.kind, repo, ref
			break
		}
	}
	if q.Kind == KindBlob && r.Header.Get("Range") != "" {
		q.Kind = KindRange
	}
	return q
}

// trailing allows an upload to be started without the last slash.
func trailing(path, mark string) string {
	if strings.HasSuffix(path, strings.TrimSuffix(mark, "/")) {
		return "/"
	}
	return ""
}

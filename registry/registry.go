// SPDX-License-Identifier: Apache-2.0

// Package registry is a client of OCI distribution registries.
package registry

import (
	"context"
	"io"
	"net/http"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Credential is what a registry host asks for. The zero value is anonymous.
type Credential struct {
	Username, Password string
	RefreshToken       string
}

// CredentialFunc returns the credential for a registry host (host or host:port).
type CredentialFunc func(ctx context.Context, host string) (Credential, error)

// Options configures a Client.
type Options struct {
	PlainHTTP  bool           // use http for every host; loopback hosts are tried with http anyway when https is refused
	Credential CredentialFunc // nil means the docker config and its credential helpers
	UserAgent  string         // "" means "soci"
	Transport  http.RoundTripper
	Mirrors    func(host string) []Mirror // tried in order before the origin, for blobs; nil means none
	Retry      Retry
}

// Mirror is a host asked for blobs before the origin.
type Mirror struct {
	Host      string
	PlainHTTP bool
	Timeout   time.Duration // of one request; 0 means the client's
}

// Retry bounds the retries of one operation. Zero fields mean the default.
type Retry struct {
	Max              int // retries after the first try; 0 means 8, negative none
	MinWait, MaxWait time.Duration
}

// Client talks to registries. It is safe for concurrent use.
type Client struct{}

// NewClient returns a client.
func NewClient(opts Options) (*Client, error) { panic("not yet") }

// Repository returns the repository of ref, a reference such as
// "localhost:5000/go:1.26" (its tag or digest is ignored).
func (c *Client) Repository(ref string) (*Repository, error) { panic("not yet") }

// Repository is one repository of a registry. It satisfies index.Store.
type Repository struct{}

// Resolve returns the descriptor of the manifest that tag or digest names.
func (r *Repository) Resolve(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, error) {
	panic("not yet")
}

// Fetch opens the manifest or blob of desc. The reader fails at its end if
// size or digest do not match.
func (r *Repository) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	panic("not yet")
}

// Exists reports whether the repository has desc.
func (r *Repository) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	panic("not yet")
}

// Push uploads the manifest or blob of desc unless it is there already. A manifest with a subject becomes its referrer.
func (r *Repository) Push(ctx context.Context, desc ocispec.Descriptor, content io.Reader) error {
	panic("not yet")
}

// Tag points tag at the manifest desc.
func (r *Repository) Tag(ctx context.Context, desc ocispec.Descriptor, tag string) error {
	panic("not yet")
}

// Referrers lists the manifests of artifactType whose subject is the manifest subject.
func (r *Repository) Referrers(ctx context.Context, subject ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error) {
	panic("not yet")
}

// Blob returns a ranged reader of the blob desc, whose size must be known. It makes no request.
func (r *Repository) Blob(desc ocispec.Descriptor) *Blob { panic("not yet") }

// Blob reads ranges of one blob. It is safe for concurrent use and satisfies fs.Source.
type Blob struct{}

// Size is the blob's size in bytes.
func (b *Blob) Size() int64 { panic("not yet") }

// ReadAt fills p with the bytes at off, all of them or an error.
func (b *Blob) ReadAt(ctx context.Context, p []byte, off int64) error { panic("not yet") }

// Open streams the blob from its beginning, resuming by range where a body is
// cut short, and verifies size and digest at its end.
func (b *Blob) Open(ctx context.Context) (io.ReadCloser, error) { panic("not yet") }

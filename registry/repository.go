// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	orasregistry "oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
)

// MaxManifestSize bounds manifests and referrers lists, in bytes.
const MaxManifestSize = 4 << 20

const (
	maxReferrerPages = 64
	maxReferrers     = 16384
)

// manifestTypes are the media types that live under /manifests/.
func manifestTypes() []string {
	return []string{
		ocispec.MediaTypeImageManifest,
		ocispec.MediaTypeImageIndex,
		"application/vnd.docker.distribution.manifest.v2+json",
		"application/vnd.docker.distribution.manifest.list.v2+json",
	}
}

func isManifest(desc ocispec.Descriptor) bool {
	return slices.Contains(manifestTypes(), desc.MediaType)
}

// Repository is one repository of a registry. It is safe for concurrent use and
// satisfies index.Store.
type Repository struct {
	client *Client
	ref    orasregistry.Reference

	mu   sync.Mutex         // guards oras
	oras *remote.Repository // nil until the scheme is known
}

// Name is the repository's full name, such as "docker.io/library/busybox".
func (r *Repository) Name() string { return r.ref.Registry + "/" + r.ref.Repository }

// remote returns the oras-go repository. It remembers whether the registry has
// a referrers API.
func (r *Repository) remote(ctx context.Context) (*remote.Repository, error) {
	plain, err := r.client.plainHTTP(ctx, r.ref.Host())
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.oras == nil || r.oras.PlainHTTP != plain {
		r.oras = &remote.Repository{
			Client:               metadata{r.client},
			Reference:            r.ref,
			PlainHTTP:            plain,
			ManifestMediaTypes:   manifestTypes(),
			ReferrerListMaxPages: maxReferrerPages,
			MaxMetadataBytes:     MaxManifestSize,
			SkipReferrersGC:      true,
		}
	}
	return r.oras, nil
}

// url is where the repository's what ("manifests", "blobs") of ref is.
func (r *Repository) url(plain bool, what, ref string) *url.URL {
	scheme := "https"
	if plain {
		scheme = "http"
	}
	return &url.URL{Scheme: scheme, Host: r.ref.Host(), Path: "/v2/" + r.ref.Repository + "/" + what + "/" + ref}
}

// do does op with the oras-go repository, again while that may help. Errors
// name method, what and ref unless they know better.
func (r *Repository) do(ctx context.Context, method, what, ref string, op func(context.Context, *remote.Repository) error) error {
	return r.client.retried(ctx, func(ctx context.Context) error {
		return r.once(ctx, method, what, ref, op)
	})
}

func (r *Repository) once(ctx context.Context, method, what, ref string, op func(context.Context, *remote.Repository) error) error {
	rr, err := r.remote(ctx)
	if err != nil {
		return err
	}
	if err := op(ctx, rr); err != nil {
		return failed(method, r.url(rr.PlainHTTP, what, ref), err)
	}
	return nil
}

// Resolve returns the descriptor of the manifest that tag or digest names.
func (r *Repository) Resolve(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, error) {
	var desc ocispec.Descriptor
	err := r.do(ctx, http.MethodHead, "manifests", tagOrDigest, func(ctx context.Context, rr *remote.Repository) (err error) {
		desc, err = rr.Resolve(ctx, tagOrDigest)
		return err
	})
	if headUnclear(err) {
		err = r.do(ctx, http.MethodGet, "manifests", tagOrDigest, func(ctx context.Context, rr *remote.Repository) error {
			d, rc, err := rr.FetchReference(ctx, tagOrDigest)
			if err == nil {
				desc, err = d, rc.Close()
			}
			return err
		})
	}
	if err == nil && (desc.Size < 0 || desc.Size > MaxManifestSize) {
		err = fmt.Errorf("manifest of %d bytes: %w", desc.Size, ErrTooLarge)
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("resolve %s of %s: %w", tagOrDigest, r.Name(), err)
	}
	return desc, nil
}

// headUnclear reports whether a HEAD was refused, or its answer lacks what a
// GET would tell.
func headUnclear(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	return e.Status == http.StatusMethodNotAllowed || e.Status == http.StatusNotImplemented ||
		e.Status == 0 && !e.transport && !errors.Is(e.Err, ErrProtocol)
}

// checkDescriptor refuses what cannot be asked for.
func checkDescriptor(desc ocispec.Descriptor) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", desc.Digest, err)
	}
	if desc.Size < 0 {
		return fmt.Errorf("size %d of %s: %w", desc.Size, desc.Digest, ErrDigest)
	}
	if isManifest(desc) && desc.Size > MaxManifestSize {
		return fmt.Errorf("manifest %s of %d bytes: %w", desc.Digest, desc.Size, ErrTooLarge)
	}
	return nil
}

// readVerified reads all of desc, which is a manifest.
func readVerified(rd io.Reader, desc ocispec.Descriptor) ([]byte, error) {
	p, err := io.ReadAll(io.LimitReader(rd, desc.Size+1))
	if err != nil {
		return nil, err
	}
	if int64(len(p)) != desc.Size {
		return nil, fmt.Errorf("%d bytes or more, want %d: %w", len(p), desc.Size, ErrDigest)
	}
	if got := desc.Digest.Algorithm().FromBytes(p); got != desc.Digest {
		return nil, fmt.Errorf("digest is %s, want %s: %w", got, desc.Digest, ErrDigest)
	}
	return p, nil
}

// Fetch opens the manifest or blob of desc. A manifest is read and verified at
// once; the reader of a blob fails at its end if size or digest do not match.
func (r *Repository) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if !isManifest(desc) {
		return r.Blob(desc).Open(ctx)
	}
	p, err := r.fetchManifest(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("fetch manifest %s of %s: %w", desc.Digest, r.Name(), err)
	}
	return io.NopCloser(bytes.NewReader(p)), nil
}

func (r *Repository) fetchManifest(ctx context.Context, desc ocispec.Descriptor) (p []byte, err error) {
	if err := checkDescriptor(desc); err != nil {
		return nil, err
	}
	err = r.do(ctx, http.MethodGet, "manifests", desc.Digest.String(), func(ctx context.Context, rr *remote.Repository) error {
		rc, err := rr.Manifests().Fetch(ctx, desc)
		if err != nil {
			return err
		}
		defer rc.Close()
		p, err = readVerified(rc, desc)
		return err
	})
	return p, err
}

// Exists reports whether the repository has desc.
func (r *Repository) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if err := checkDescriptor(desc); err != nil {
		return false, fmt.Errorf("look for %s in %s: %w", desc.Digest, r.Name(), err)
	}
	what := "blobs"
	if isManifest(desc) {
		what = "manifests"
	}
	var found bool
	err := r.do(ctx, http.MethodHead, what, desc.Digest.String(), func(ctx context.Context, rr *remote.Repository) (err error) {
		found, err = rr.Exists(ctx, desc)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look for %s in %s: %w", desc.Digest, r.Name(), err)
	}
	return found, nil
}

// Tag points tag at the manifest desc, which the repository has.
func (r *Repository) Tag(ctx context.Context, desc ocispec.Descriptor, tag string) error {
	p, err := r.fetchManifest(ctx, desc)
	if err == nil {
		err = r.do(ctx, http.MethodPut, "manifests", tag, func(ctx context.Context, rr *remote.Repository) error {
			return rr.PushReference(ctx, desc, bytes.NewReader(p), tag)
		})
	}
	if err != nil {
		return fmt.Errorf("tag %s as %s in %s: %w", desc.Digest, tag, r.Name(), err)
	}
	return nil
}

// Referrers lists the manifests of artifactType ("" means all) whose subject is
// the manifest subject: by the referrers API, or the fallback tag where there
// is none. Descriptors that make no sense are left out.
func (r *Repository) Referrers(ctx context.Context, subject ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error) {
	if err := subject.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("list referrers of %q: %w", subject.Digest, err)
	}
	var found []ocispec.Descriptor
	list := func(ctx context.Context, rr *remote.Repository) error {
		found = nil
		return rr.Referrers(ctx, subject, artifactType, func(page []ocispec.Descriptor) error {
			for _, d := range page {
				if checkDescriptor(d) == nil && (artifactType == "" || d.ArtifactType == artifactType) {
					found = append(found, d)
				}
			}
			if len(found) > maxReferrers {
				return fmt.Errorf("more than %d referrers: %w", maxReferrers, ErrTooLarge)
			}
			return nil
		})
	}
	err := r.do(ctx, http.MethodGet, "referrers", subject.Digest.String(), list)
	if noReferrersAPI(err) {
		err = r.do(ctx, http.MethodGet, "referrers", subject.Digest.String(), func(ctx context.Context, rr *remote.Repository) error {
			// An answer of 400 or of no JSON means what 404 means. If the API is known to be there, it is a failure.
			if err := rr.SetReferrersCapability(false); err != nil {
				return err
			}
			return list(ctx, rr)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("list referrers of %s in %s: %w", subject.Digest, r.Name(), err)
	}
	return found, nil
}

// noReferrersAPI reports whether err is how a registry without the referrers
// API may answer, beside 404.
func noReferrersAPI(err error) bool {
	var (
		e      *Error
		syntax *json.SyntaxError
		typ    *json.UnmarshalTypeError
	)
	if errors.As(err, &syntax) || errors.As(err, &typ) {
		return true
	}
	if !errors.As(err, &e) {
		return false
	}
	switch e.Status {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		return true
	}
	return false
}

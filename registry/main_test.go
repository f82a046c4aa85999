// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
)

const repoName = "team/app"

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func anonymous(context.Context, string) (registry.Credential, error) {
	return registry.Credential{}, nil
}

func user(u, p string) registry.CredentialFunc {
	return func(context.Context, string) (registry.Credential, error) {
		return registry.Credential{Username: u, Password: p}, nil
	}
}

// start runs a registry until the test ends.
func start(t *testing.T, opts registrytest.Options) *registrytest.Server {
	t.Helper()
	s := registrytest.New(opts)
	t.Cleanup(s.Close)
	return s
}

// open returns a repository of s; retries are quick and nobody is asked for credentials by default.
func open(t *testing.T, s *registrytest.Server, opts registry.Options) *registry.Repository {
	t.Helper()
	if opts.Credential == nil {
		opts.Credential = anonymous
	}
	if opts.Retry.MaxWait == 0 {
		opts.Retry.MinWait, opts.Retry.MaxWait = time.Millisecond, 20*time.Millisecond
	}
	opts.PlainHTTP = opts.PlainHTTP || s.CertPool() == nil
	c := must[*registry.Client](t)(registry.NewClient(opts))
	t.Cleanup(func() { _ = c.Close() })
	return must[*registry.Repository](t)(c.Repository(s.Host() + "/" + repoName + ":ignored"))
}

// random makes content that is the same in every run.
func random(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1, 2, 3}).Read(p)
	return p
}

func descOf(mediaType string, p []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(p), Size: int64(len(p))}
}

// add puts a blob into s.
func add(t *testing.T, s *registrytest.Server, p []byte) ocispec.Descriptor {
	t.Helper()
	return must[ocispec.Descriptor](t)(s.AddBlob(repoName, bytes.NewReader(p)))
}

// manifestOf makes a manifest of nothing but its config, which is in s.
func manifestOf(t *testing.T, s *registrytest.Server, artifactType string, subject *ocispec.Descriptor) ([]byte, ocispec.Descriptor) {
	t.Helper()
	config := add(t, s, []byte("{}"))
	config.MediaType = artifactType
	p := must[[]byte](t)(json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    config,
		Layers:    []ocispec.Descriptor{},
		Subject:   subject,
	}))
	return p, descOf(ocispec.MediaTypeImageManifest, p)
}

// readAll reads a stream and closes it.
func readAll(rc io.ReadCloser, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}

// legs runs f on registries with and without referrers, ranges and redirects.
func legs(t *testing.T, f func(t *testing.T, opts registrytest.Options)) {
	for i := range 8 {
		opts := registrytest.Options{NoReferrers: i&1 != 0, NoRange: i&2 != 0, Redirect: i&4 != 0}
		name := fmt.Sprintf("referrers=%t,range=%t,redirect=%t", !opts.NoReferrers, !opts.NoRange, opts.Redirect)
		t.Run(name, func(t *testing.T) { f(t, opts) })
	}
}

// roundTripper is a transport made of a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

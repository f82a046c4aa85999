// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// client returns a client that trusts s.
func client(t *testing.T, s *registrytest.Server, opts registry.Options) *registry.Client {
	t.Helper()
	if opts.Credential == nil {
		opts.Credential = anonymous
	}
	if opts.Transport == nil {
		tr := registry.NewTransport(registry.Timeouts{})
		tr.TLSClientConfig = &tls.Config{RootCAs: s.CertPool()}
		opts.Transport = tr
	}
	c := must[*registry.Client](t)(registry.NewClient(opts))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestLoopbackScheme finds out which scheme a loopback host speaks, and asks once.
func TestLoopbackScheme(t *testing.T) {
	content := random(1000)
	for name, opts := range map[string]registrytest.Options{"http": {}, "https": {TLS: true}, "https, redirect": {TLS: true, Redirect: true}} {
		t.Run(name, func(t *testing.T) {
			s := start(t, opts)
			desc := add(t, s, content)
			c := client(t, s, registry.Options{})
			for range 3 {
				r := must[*registry.Repository](t)(c.Repository(s.Host() + "/" + repoName))
				if err := readAt(t, r.Blob(desc), content, 5, 100); err != nil {
					t.Error(err)
				}
				if ok, err := r.Exists(t.Context(), desc); !ok || err != nil {
					t.Errorf("exists: %t, %v", ok, err)
				}
			}
			if n := s.Stats().Other.Requests; n > 1 {
				t.Errorf("asked %d times for the scheme", n)
			}
		})
	}
}

// TestLoopbackSchemeLater has a loopback host, and a mirror there, fail while they are asked for their scheme: that
// tells nothing, and the next request asks again.
func TestLoopbackSchemeLater(t *testing.T) {
	content := random(1000)
	s := start(t, registrytest.Options{})
	desc := add(t, s, content)
	for _, broken := range []error{syscall.ECONNRESET, syscall.ECONNREFUSED, io.EOF, context.DeadlineExceeded} {
		fail, origin := 1, s.Host()
		c := client(t, s, registry.Options{
			Retry:   registry.Retry{Max: -1},
			Mirrors: func(string) []registry.Mirror { return []registry.Mirror{{Host: "localhost:1"}} },
			Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				if r.URL.Host == origin && fail == 0 {
					return http.DefaultTransport.RoundTrip(r)
				}
				if r.URL.Host == origin {
					fail--
				}
				return nil, broken
			}),
		})
		r := must[*registry.Repository](t)(c.Repository(s.Host() + "/" + repoName))
		err := readAt(t, r.Blob(desc), content, 5, 100)
		var e *registry.Error
		if !errors.As(err, &e) || !e.Temporary() {
			t.Errorf("%v: %v", broken, err)
		}
		if err := readAt(t, r.Blob(desc), content, 5, 100); err != nil {
			t.Errorf("after %v: %v", broken, err)
		}
	}
}

// TestHTTPIsNotTried holds that a host elsewhere is never spoken to in clear.
func TestHTTPIsNotTried(t *testing.T) {
	var mu sync.Mutex
	var schemes []string
	c := must[*registry.Client](t)(registry.NewClient(registry.Options{Credential: anonymous, Retry: registry.Retry{Max: -1},
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			schemes = append(schemes, r.URL.Scheme)
			return nil, http.ErrSchemeMismatch
		})}))
	for _, host := range []string{"registry.example", "registry.example:5000", "10.0.0.1:5000", "localhost.example"} {
		r := must[*registry.Repository](t)(c.Repository(host + "/x/y"))
		if _, err := r.Resolve(t.Context(), "v1"); err == nil {
			t.Error("no error")
		}
		if err := r.Blob(descOf("x/y", []byte("z"))).ReadAt(t.Context(), make([]byte, 1), 0); err == nil {
			t.Error("no error")
		}
	}
	if len(schemes) != 8 || slices.Contains(schemes, "http") {
		t.Errorf("requests: %v", schemes)
	}
}

// TestUntrusted has a certificate that nobody vouches for: no retry helps.
func TestUntrusted(t *testing.T) {
	s := start(t, registrytest.Options{TLS: true})
	r := must[*registry.Repository](t)(must[*registry.Client](t)(registry.NewClient(registry.Options{Credential: anonymous})).Repository(s.Host() + "/x/y"))
	_, err := r.Resolve(t.Context(), "v1")
	var e *registry.Error
	if !errors.As(err, &e) || e.Temporary() || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("%v", err)
	}
}

func TestDockerCredentials(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	creds, ctx := registry.DockerCredentials(), t.Context()
	if c, err := creds(ctx, "a.example"); err != nil || c != (registry.Credential{}) {
		t.Errorf("without a config: %+v, %v", c, err)
	}
	helper := "#!/bin/sh\nread host\n[ \"$host\" = broken.example ] && exit 1\necho '{\"Username\":\"helped\",\"Secret\":\"'$host'\"}'\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(helper), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	config := `{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnB3"},"a.example:5000":{"auth":"amFuZTpwOnc="}},
		"credHelpers":{"helped.example":"test","broken.example":"test"}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]registry.Credential{
		"docker.io":      {Username: "hub", Password: "pw"},
		"a.example:5000": {Username: "jane", Password: "p:w"},
		"helped.example": {Username: "helped", Password: "helped.example"},
		"b.example":      {},
	} {
		if got, err := creds(ctx, host); err != nil || got != want {
			t.Errorf("%s: %+v, %v", host, got, err)
		}
	}
	if _, err := creds(ctx, "broken.example"); err == nil {
		t.Error("a broken helper is no error")
	}
	chain := registry.ChainCredentials(creds, user("next", "x"))
	if got, err := chain(ctx, "broken.example"); err != nil || got.Username != "next" {
		t.Errorf("after a broken helper: %+v, %v", got, err)
	}
	if _, err := registry.ChainCredentials(creds, anonymous)(ctx, "broken.example"); err == nil {
		t.Error("nobody has a credential, and the broken helper is forgotten")
	}
}

// TestHubHost asks for Docker Hub's credential by the name that users know.
func TestHubHost(t *testing.T) {
	var asked []string
	c := must[*registry.Client](t)(registry.NewClient(registry.Options{
		Retry: registry.Retry{Max: -1},
		Credential: func(_ context.Context, host string) (registry.Credential, error) {
			asked = append(asked, host)
			return registry.Credential{}, errors.New("enough")
		},
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			asked = append(asked, r.URL.Host)
			return &http.Response{StatusCode: 401, Header: http.Header{"Www-Authenticate": {"Basic realm=x"}}, Body: http.NoBody, Request: r}, nil
		}),
	}))
	r := must[*registry.Repository](t)(c.Repository("busybox"))
	if err := r.Blob(descOf("x/y", []byte("z"))).ReadAt(t.Context(), make([]byte, 1), 0); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("%v", err)
	}
	if !slices.Equal(asked, []string{"registry-1.docker.io", "docker.io"}) {
		t.Errorf("asked %v", asked)
	}
}

func TestParseUser(t *testing.T) {
	for in, want := range map[string]registry.Credential{
		"jane:pw": {Username: "jane", Password: "pw"}, "jane:p:w": {Username: "jane", Password: "p:w"},
		"jane": {Username: "jane"}, "AWS:": {Username: "AWS"},
	} {
		if got, err := registry.ParseUser(in); err != nil || got != want {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", ":s3cret"} {
		if _, err := registry.ParseUser(in); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// TestCancelledTokenFetch cancels the first of two that wait for the same token.
func TestCancelledTokenFetch(t *testing.T) {
	reached, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s := start(t, registrytest.Options{Auth: registrytest.AuthBearer, Hook: func(w http.ResponseWriter, r *registrytest.Request) bool {
		if r.Kind == registrytest.KindToken {
			once.Do(func() {
				close(reached)
				select {
				case <-r.Context().Done():
				case <-release:
				}
			})
		}
		return false
	}})
	defer close(release)
	content := random(1000)
	desc := add(t, s, content)
	r := open(t, s, registry.Options{Retry: registry.Retry{Max: -1}})
	ctx, cancel := context.WithCancel(t.Context())
	first, other := make(chan error, 1), make(chan error, 1)
	go func() { first <- r.Blob(desc).ReadAt(ctx, make([]byte, 5), 0) }()
	<-reached
	go func() { other <- r.Blob(desc).ReadAt(context.WithoutCancel(ctx), make([]byte, 5), 0) }()
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("first: %v", err)
	}
	if err := <-other; err != nil {
		t.Errorf("second: %v", err)
	}
}

func TestMirrors(t *testing.T) {
	content := random(100_000)
	var mu sync.Mutex
	var seen []string
	hook := func(_ http.ResponseWriter, r *registrytest.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.Second {
			seen = append(seen, "second "+r.Header.Get("X-Mirror"))
		} else if r.Kind == kindRange {
			seen = append(seen, r.URL.Query().Get("ns")+" "+r.Header.Get("X-Mirror"))
		}
		return false
	}
	origin := start(t, registrytest.Options{})
	full := start(t, registrytest.Options{Hook: hook, Redirect: true, Auth: registrytest.AuthBearer})
	empty := start(t, registrytest.Options{})
	gone := registrytest.New(registrytest.Options{})
	gone.Close()
	desc := add(t, origin, content)
	add(t, full, content)
	r := open(t, origin, registry.Options{Mirrors: func(host string) []registry.Mirror {
		if host != origin.Host() {
			t.Errorf("mirrors of %s", host)
		}
		return []registry.Mirror{
			{Host: gone.Host()}, {Host: empty.Host(), PlainHTTP: true},
			{Host: full.Host(), Header: http.Header{"X-Mirror": {"yes"}}},
		}
	}})
	b := r.Blob(desc)
	for range 3 {
		if err := readAt(t, b, content, 7, 5000); err != nil {
			t.Fatal(err)
		}
	}
	if n := origin.Stats().Range.Requests; n != 0 {
		t.Errorf("the origin got %d requests", n)
	}
	if n := empty.Stats().Range.Requests; n != 1 {
		t.Errorf("the mirror without the blob got %d requests, want 1", n)
	}
	for _, line := range seen {
		if line != origin.Host()+" yes" && line != "second " {
			t.Errorf("mirror saw %q", line)
		}
	}
	if n := full.Stats().Leaks; n != 0 {
		t.Errorf("%d leaks", n)
	}

	// A mirror that breaks in the middle costs one resume at the origin, and is then left alone.
	full.Inject(registrytest.Fault{Kind: kindRange, Truncate: 10_000})
	if err := readAt(t, b, content, 7, 50_000); err != nil {
		t.Fatal(err)
	}
	if got := origin.Stats().Range; got != (registrytest.Count{Requests: 1, Bytes: 40_000}) {
		t.Errorf("the origin sent %+v", got)
	}
	before := full.Stats().Range.Requests
	got, err := readAll(b.Open(t.Context()))
	if err != nil || !bytes.Equal(got, content) || full.Stats().Range.Requests != before {
		t.Errorf("open: %d bytes, %v", len(got), err)
	}
}

// TestClientFollowsHTTP2 reads through one HTTP/2 connection.
func TestClientFollowsHTTP2(t *testing.T) {
	var proto string
	s := start(t, registrytest.Options{TLS: true, Hook: func(_ http.ResponseWriter, r *registrytest.Request) bool {
		proto = r.Proto
		return false
	}})
	content := random(3 << 20)
	r := must[*registry.Repository](t)(client(t, s, registry.Options{}).Repository(s.Host() + "/" + repoName))
	b := r.Blob(add(t, s, content))
	s.Inject(registrytest.Fault{Kind: kindRange, Times: 2, Truncate: 100_000})
	if err := readAt(t, b, content, 0, 2<<20); err != nil {
		t.Error(err)
	}
	if proto != "HTTP/2.0" {
		t.Errorf("spoke %s", proto)
	}
}

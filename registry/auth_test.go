// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
)

func TestAuth(t *testing.T) {
	content := random(100_000)
	for name, opts := range map[string]registrytest.Options{
		"basic":            {Auth: registrytest.AuthBasic},
		"bearer":           {Auth: registrytest.AuthBearer},
		"bearer, redirect": {Auth: registrytest.AuthBearer, Redirect: true},
		"basic, redirect":  {Auth: registrytest.AuthBasic, Redirect: true},
	} {
		t.Run(name, func(t *testing.T) {
			opts.Username, opts.Password = "jane", "s3cret-pass"
			s := start(t, opts)
			desc := add(t, s, content)
			r := open(t, s, registry.Options{Credential: user("jane", "s3cret-pass")})
			b := r.Blob(desc)
			for range 3 {
				if err := readAt(t, b, content, 10, 1000); err != nil {
					t.Fatal(err)
				}
				s.ExpireTokens()
				s.ExpireRedirects()
			}
			s.Inject(registrytest.Fault{Kind: kindRange, Times: 1, Truncate: 100,
				Match: func(r *registrytest.Request) bool { return !opts.Redirect || r.Second },
				Then:  func() { s.ExpireTokens(); s.ExpireRedirects() }})
			s.ExpireRedirects() // so that the fault is met in a fresh answer
			if err := readAt(t, b, content, 10, 50_000); err != nil {
				t.Errorf("tokens expired in the middle: %v", err)
			}
			if n := s.Stats().Leaks; n != 0 {
				t.Errorf("%d requests took credentials to the second host", n)
			}
			if err := r.Push(t.Context(), descOf("x/y", content[1:]), bytes.NewReader(content[1:])); err != nil {
				t.Error(err)
			}
			err := readAt(t, open(t, s, registry.Options{Credential: user("jane", "wr0ng-pass")}).Blob(desc), content, 0, 5)
			var e *registry.Error
			if !errors.As(err, &e) || e.Status != 401 || strings.Contains(err.Error(), "wr0ng") {
				t.Errorf("wrong password: %v", err)
			}
			if err := readAt(t, open(t, s, registry.Options{}).Blob(desc), content, 0, 5); err == nil {
				t.Error("anonymous read of a private blob")
			}
		})
	}
}

// TestTokenAfter403 meets a registry that says 403 when a token has expired.
func TestTokenAfter403(t *testing.T) {
	s := start(t, registrytest.Options{Auth: registrytest.AuthBearer})
	content := random(100)
	b := open(t, s, registry.Options{}).Blob(add(t, s, content))
	if err := readAt(t, b, content, 0, 9); err != nil {
		t.Fatal(err)
	}
	s.Inject(registrytest.Fault{Kind: kindRange, Times: 1, Status: 403})
	if err := readAt(t, b, content, 0, 9); err != nil {
		t.Error(err)
	}
	if n := s.Stats().Token.Requests; n != 2 {
		t.Errorf("%d tokens, want 2", n)
	}
	s.Inject(registrytest.Fault{Kind: kindRange, Status: 403})
	if err := readAt(t, b, content, 0, 9); err == nil {
		t.Error("403 for good is not an error")
	}
}

func TestSecretsStaySecret(t *testing.T) {
	s := start(t, registrytest.Options{Redirect: true, Auth: registrytest.AuthBearer, Username: "jane", Password: "s3cret-pass"})
	content := random(1000)
	r := open(t, s, registry.Options{Credential: user("jane", "s3cret-pass"), Retry: registry.Retry{Max: -1}})
	b := r.Blob(add(t, s, content))
	var errs []error
	for _, f := range []registrytest.Fault{
		{Status: 500}, {Status: 404}, {Truncate: -1}, {Truncate: 5}, {Status: 206},
		{Status: 302, Header: http.Header{"Location": {"http://u:hunter2@127.0.0.1:1/x?X-Signature=secret-signature"}}},
		{Status: 302, Header: http.Header{"Location": {"http://127.0.0.1:1/%zz?X-Signature=secret-signature"}}},
	} {
		f.Match = second
		s.Inject(f)
		errs = append(errs, readAt(t, b, content, 0, 500))
		_, err := readAll(b.Open(t.Context()))
		errs = append(errs, err)
		s.Heal()
	}
	s.Inject(registrytest.Fault{Kind: registrytest.KindManifest, Status: 302, Header: http.Header{"Location": {"http://u:hunter2@127.0.0.1:1/%zz?X-Signature=secret-signature"}}})
	_, err := r.Resolve(t.Context(), "v1")
	errs = append(errs, err)
	s.Heal()
	s.Inject(registrytest.Fault{Kind: registrytest.KindManifest, Status: 302, Header: http.Header{"Location": {"http://u:hunter2@127.0.0.1:1/?X-Signature=secret-signature"}}})
	_, err = r.Resolve(t.Context(), "v1")
	errs = append(errs, err)
	for i, err := range errs {
		if err == nil {
			t.Errorf("%d: no error", i)
			continue
		}
		for _, word := range []string{"secret-signature", "s3cret", "hunter2", "Bearer"} {
			if strings.Contains(err.Error(), word) {
				t.Errorf("%d: error shows %q: %v", i, word, err)
			}
		}
	}
}

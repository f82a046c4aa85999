// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"errors"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// TestDistrust reads from a mirror that sends wrong bytes, and from the origin once it is
// told so.
func TestDistrust(t *testing.T) {
	content, other := random(10_000), make([]byte, 10_000)
	origin := start(t, registrytest.Options{Redirect: true})
	mirror := start(t, registrytest.Options{Hook: func(w http.ResponseWriter, r *registrytest.Request) bool {
		r.Header.Del("Range")
		_, _ = w.Write(other)
		return true
	}})
	desc := add(t, origin, content)
	r := open(t, origin, registry.Options{Mirrors: func(string) []registry.Mirror { return []registry.Mirror{{Host: mirror.Host()}} }})
	b := r.Blob(desc)
	read := func() []byte {
		t.Helper()
		return must[[]byte](t)(readAll(b.OpenRange(t.Context(), 100, 200)))
	}
	if got := read(); got[0] != 0 || got[199] != 0 {
		t.Fatal("the mirror was not asked")
	}
	if b.Distrust(300, 100) {
		t.Error("distrusted for bytes that it has not sent")
	}
	if got := read(); got[0] != 0 {
		t.Error("the mirror was not asked again")
	}
	if !b.Distrust(299, 1) {
		t.Error("nobody else is to be asked")
	}
	if got := read(); string(got) != string(content[100:300]) {
		t.Error("wrong bytes from the origin")
	}
	// Of the origin there is nothing but its redirect to distrust.
	n := origin.Stats().Redirects
	if b.Distrust(0, 10_000) {
		t.Error("somebody else is to be asked")
	}
	read()
	if got := origin.Stats().Redirects - n; got != 1 {
		t.Errorf("the origin was asked %d times for another redirect", got)
	}
	// A whole blob is verified here: who fetches it again has it.
	b = r.Blob(desc)
	if _, err := readAll(b.Open(t.Context())); !errors.Is(err, registry.ErrDigest) {
		t.Errorf("from the mirror: %v", err)
	}
	if got := must[[]byte](t)(readAll(b.Open(t.Context()))); string(got) != string(content) {
		t.Error("wrong bytes from the origin")
	}
}

// TestLoginPage has a registry send those who read to a page to log in on, for a while: it
// is not remembered as the place where the blob is.
func TestLoginPage(t *testing.T) {
	var away atomic.Bool
	page := start(t, registrytest.Options{Hook: func(w http.ResponseWriter, _ *registrytest.Request) bool {
		w.Header().Set("Content-Type", "text/html")
		for range 3 { // of a length that is not told
			_, _ = w.Write([]byte("<html>"))
			_ = http.NewResponseController(w).Flush()
		}
		return true
	}})
	s := start(t, registrytest.Options{Redirect: true, Hook: func(w http.ResponseWriter, r *registrytest.Request) bool {
		if !away.Load() || r.Second {
			return false
		}
		w.Header().Set("Location", page.URL()+"/login")
		w.WriteHeader(http.StatusFound)
		return true
	}})
	content := random(10_000)
	b := open(t, s, registry.Options{}).Blob(add(t, s, content))
	for range 2 {
		if err := readAt(t, b, content, 10, 5000); err != nil {
			t.Fatal(err)
		}
		away.Store(true)
		s.ExpireRedirects()
		for range 2 {
			if err := readAt(t, b, content, 10, 5000); !errors.Is(err, registry.ErrProtocol) {
				t.Errorf("a page to log in on: %v", err)
			}
		}
		away.Store(false)
	}
	if err := readAt(t, b, content, 10, 5000); err != nil {
		t.Error(err)
	}
}

// TestDistrustWhole has a mirror answer ranges with all of a blob, and that be wrong: it is
// distrusted for all of it.
func TestDistrustWhole(t *testing.T) {
	content, other := random(10_000), make([]byte, 10_000)
	origin := start(t, registrytest.Options{NoRange: true})
	mirror := start(t, registrytest.Options{Hook: func(w http.ResponseWriter, r *registrytest.Request) bool {
		r.Header.Del("Range")
		_, _ = w.Write(other)
		return true
	}})
	desc := add(t, origin, content)
	r := open(t, origin, registry.Options{Mirrors: func(string) []registry.Mirror { return []registry.Mirror{{Host: mirror.Host()}} }})
	b := r.Blob(desc)
	body, whole, err := b.OpenRangeOrWhole(t.Context(), 100, 200)
	if err != nil || !whole {
		t.Fatalf("whole is %t, %v", whole, err)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
	if !b.Distrust(5000, 100) {
		t.Error("nobody else is to be asked")
	}
}

// TestHTMLBlob reads a blob that its storage takes for a page: its length is the blob's.
func TestHTMLBlob(t *testing.T) {
	content := random(10_000)
	s := start(t, registrytest.Options{Hook: func(w http.ResponseWriter, r *registrytest.Request) bool {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Content-Length", "10000")
		_, _ = w.Write(content)
		return true
	}})
	b := open(t, s, registry.Options{}).Blob(add(t, s, content))
	if err := readAt(t, b, content, 10, 5000); err != nil {
		t.Error(err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// readEither reads what OpenRangeOrWhole gives.
func readEither(t *testing.T, b *registry.Blob, off, n int64) (p []byte, whole bool, err error) {
	t.Helper()
	body, whole, err := b.OpenRangeOrWhole(t.Context(), off, n)
	if err != nil {
		return nil, whole, err
	}
	defer body.Close()
	p, err = io.ReadAll(body)
	return p, whole, err
}

func TestOpenRangeOrWhole(t *testing.T) {
	legs(t, func(t *testing.T, opts registrytest.Options) {
		s := start(t, opts)
		content := random(300_000)
		b := open(t, s, registry.Options{}).Blob(add(t, s, content))
		for _, r := range [][2]int64{{0, 1}, {0, 300_000}, {299_999, 1}, {1000, 70_000}, {300_000, 0}, {5, 0}} {
			want, all := content[r[0]:r[0]+r[1]], opts.NoRange && r[1] > 0 && r[1] < 300_000
			if all {
				want = content
			}
			got, whole, err := readEither(t, b, r[0], r[1])
			if err != nil || whole != all || !bytes.Equal(got, want) {
				t.Errorf("[%d,+%d): %d bytes, whole %t, %v", r[0], r[1], len(got), whole, err)
			}
		}
		for _, r := range [][2]int64{{-1, 1}, {300_000, 1}, {1 << 62, 1}, {5, -1}} {
			if _, _, err := readEither(t, b, r[0], r[1]); !errors.Is(err, registry.ErrRange) {
				t.Errorf("[%d,+%d): %v, want ErrRange", r[0], r[1], err)
			}
		}
	})
}

// TestWholeResumes cuts the body of a whole blob: what is missing is asked for.
func TestWholeResumes(t *testing.T) {
	s := start(t, registrytest.Options{NoRange: true})
	content := random(300_000)
	b := open(t, s, registry.Options{}).Blob(add(t, s, content))
	s.Inject(registrytest.Fault{Times: 1, Truncate: 100_000})
	got, whole, err := readEither(t, b, 7, 9)
	if err != nil || !whole || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, whole %t, %v", len(got), whole, err)
	}
}

// TestWholeIsVerified has a registry that sends other bytes.
func TestWholeIsVerified(t *testing.T) {
	content := random(1000)
	s := start(t, registrytest.Options{Hook: func(w http.ResponseWriter, _ *registrytest.Request) bool {
		_, _ = w.Write(make([]byte, len(content)))
		return true
	}})
	b := open(t, s, registry.Options{}).Blob(add(t, s, content))
	if _, whole, err := readEither(t, b, 7, 9); !whole || !errors.Is(err, registry.ErrDigest) {
		t.Errorf("whole %t, %v, want ErrDigest", whole, err)
	}
}

// TestWholeMirror has a mirror that ignores ranges: the origin is asked as long as it
// answers them, and the mirror serves if it does not.
func TestWholeMirror(t *testing.T) {
	content := random(300_000)
	origin, mirror := start(t, registrytest.Options{}), start(t, registrytest.Options{NoRange: true})
	desc := add(t, origin, content)
	add(t, mirror, content)
	b := open(t, origin, registry.Options{Mirrors: func(string) []registry.Mirror {
		return []registry.Mirror{{Host: mirror.Host(), PlainHTTP: true}}
	}}).Blob(desc)
	for range 2 {
		got, whole, err := readEither(t, b, 1000, 5000)
		if err != nil || whole || !bytes.Equal(got, content[1000:6000]) {
			t.Errorf("%d bytes, whole %t, %v", len(got), whole, err)
		}
	}
	if n := mirror.Stats().Range.Requests; n != 1 {
		t.Errorf("the mirror got %d requests, want 1", n)
	}
	origin.Inject(registrytest.Fault{Kind: kindRange, Status: http.StatusNotFound})
	b = open(t, origin, registry.Options{Mirrors: func(string) []registry.Mirror {
		return []registry.Mirror{{Host: mirror.Host(), PlainHTTP: true}}
	}}).Blob(desc)
	got, whole, err := readEither(t, b, 1000, 5000)
	if err != nil || !whole || !bytes.Equal(got, content) {
		t.Errorf("origin gone: %d bytes, whole %t, %v", len(got), whole, err)
	}
}

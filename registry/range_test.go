// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// TestRangesIgnored meets a registry that knows no ranges behind a large skip.
func TestRangesIgnored(t *testing.T) {
	s := start(t, registrytest.Options{NoRange: true})
	content := random(10 << 20)
	b := open(t, s, registry.Options{}).Blob(add(t, s, content))
	if err := readAt(t, b, content, 9<<20, 1000); err != nil {
		t.Error(err)
	}
	n := s.Stats().Range.Requests + s.Stats().Blob.Requests
	s.Inject(registrytest.Fault{Truncate: 9<<20 + 500})
	if err := readAt(t, b, content, 9<<20, 1000); !errors.Is(err, registry.ErrProtocol) {
		t.Errorf("%v, want an end after one large skip", err)
	}
	if got := s.Stats().Range.Requests + s.Stats().Blob.Requests - n; got != 2 {
		t.Errorf("%d requests, want 2", got)
	}
	s.Heal()
	s.Inject(registrytest.Fault{Times: 1, Truncate: 1000_000})
	if err := readAt(t, b, content, 999_000, 5000); err != nil {
		t.Errorf("small skips: %v", err)
	}
}

// TestContentRange serves answers that a range request must not believe, and some odd good ones.
func TestContentRange(t *testing.T) {
	content := random(1000)
	tests := []struct {
		name   string
		status int
		header string
		body   []byte
		ok     bool
	}{
		{"good", 206, "bytes 100-199/1000", content[100:200], true},
		{"total unknown", 206, "bytes 100-199/*", content[100:200], true},
		{"more than asked", 206, "bytes 100-499/1000", content[100:500], true},
		{"200 with a part", 200, "bytes 100-199/1000", content[100:200], true},
		{"200 with all and a range", 200, "bytes 0-999/1000", content, true},
		{"missing", 206, "", content[100:200], false},
		{"other offset", 206, "bytes 0-99/1000", content[:100], false},
		{"other total", 206, "bytes 100-199/2000", content[100:200], false},
		{"after the end", 206, "bytes 100-1099/*", make([]byte, 1000), false},
		{"other length", 206, "bytes 100-199/1000", content[100:150], false},
		{"malformed", 206, "bytes 100-x/1000", content[100:200], false},
		{"200 of another size", 200, "", content[:900], false},
		{"204", 204, "", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, registrytest.Options{Hook: func(w http.ResponseWriter, r *registrytest.Request) bool {
				if tt.header != "" {
					w.Header().Set("Content-Range", tt.header)
				}
				w.WriteHeader(tt.status)
				_, _ = w.Write(tt.body)
				return true
			}})
			err := readAt(t, open(t, s, registry.Options{}).Blob(add(t, s, content)), content, 100, 100)
			if (err == nil) != tt.ok {
				t.Errorf("%v", err)
			}
			if n := s.Stats().Range.Requests; n != 1 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// TestShortRanges meets a registry that sends less than was asked for.
func TestShortRanges(t *testing.T) {
	content := random(500_000)
	for _, most := range []int{70_000, 100} {
		s := start(t, registrytest.Options{Hook: func(w http.ResponseWriter, r *registrytest.Request) bool {
			var a, b int
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &a, &b); err == nil {
				r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", a, min(b, a+most-1)))
			}
			return false
		}})
		err := readAt(t, open(t, s, registry.Options{}).Blob(add(t, s, content)), content, 1, 450_000)
		if (err == nil) != (most > 65536) {
			t.Errorf("at most %d bytes: %v", most, err)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/seekoci/seekoci/fs/span"
)

func TestCache(t *testing.T) {
	m := New()
	m.Cache(func() span.StoreStats {
		return span.StoreStats{Bytes: 11, Evicted: 22, KeptBytes: 33, Room: span.Full}
	})
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	for _, line := range []string{
		"soci_cache_bytes 11", "soci_cache_evicted_bytes_total 22", "soci_cache_memory_bytes 33", "soci_cache_full 1", "soci_cache_low 1",
	} {
		if !strings.Contains(w.Body.String(), "\n"+line+"\n") {
			t.Errorf("no %q", line)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestParseContentRange(t *testing.T) {
	for in, want := range map[string]string{
		"bytes 0-0/1": "{0 1} 1", "bytes 5-9/*": "{5 5} -1", "Bytes 5-9/10": "{5 5} 10",
		"bytes 5-9/9": "", "bytes 9-5/10": "", "bytes */10": "", "bytes -5/10": "", "bytes 5-/10": "",
		"bytes 5-9": "", "items 5-9/10": "", "bytes=5-9/10": "", "": "", "bytes +5-9/10": "",
		"bytes 0-9223372036854775807/*": "", "bytes 0-4611686018427387904/*": "",
	} {
		sp, total, err := parseContentRange(in)
		if got := fmt.Sprint(sp, " ", total); (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("%q: %s, %v; want %q", in, got, err, want)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-9/10")
	f.Add("bytes 5-9/*")
	f.Add("bytes */10")
	f.Fuzz(func(t *testing.T, s string) {
		sp, total, err := parseContentRange(s)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "Content-Range") {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if sp.off < 0 || sp.n <= 0 || sp.off+sp.n <= 0 || total != -1 && sp.off+sp.n > total {
			t.Errorf("%q: %v of %d", s, sp, total)
		}
		of := "*"
		if total >= 0 {
			of = fmt.Sprint(total)
		}
		again := strings.Replace(sp.header(), "=", " ", 1) + "/" + of
		if sp2, total2, err := parseContentRange(again); err != nil || sp2 != sp || total2 != total {
			t.Errorf("%q: %v of %d, but %q: %v of %d, %v", s, sp, total, again, sp2, total2, err)
		}
	})
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "-1": 0, "1.5": 0, "99999999999999": 0, "soon": 0,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2026 03:03:05 GMT": 0,
	} {
		if got := parseRetryAfter(in, now); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("GET http://u:p@h/x?sig=1: no")
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if len(got) > maxErrorText+3 || strings.ContainsAny(got, "\n\r\x1b") {
			t.Errorf("%q became %q", s, got)
		}
		if secret := clean("see https://user:hunter2@host/path?sig=hunter2&" + s); strings.Contains(secret, "hunter2") && !strings.Contains(s, "hunter2") {
			t.Errorf("shown: %q", secret)
		}
	})
}

func TestBackoff(t *testing.T) {
	b := &backoff{retry: Retry{Max: 5, MinWait: 10 * time.Millisecond, MaxWait: 50 * time.Millisecond}}
	for i, most := range []time.Duration{10, 20, 40, 50, 50} {
		if !b.more() {
			t.Fatalf("no attempt %d", i)
		}
		most *= time.Millisecond
		if d := b.delay(nil); d < most/2 || d > most {
			t.Errorf("attempt %d waits %s, want %s to %s", i, d, most/2, most)
		}
		if d := b.delay(&Error{retryAfter: time.Hour}); d != 50*time.Millisecond {
			t.Errorf("Retry-After above the bound waits %s", d)
		}
	}
	if b.more() {
		t.Error("more attempts than allowed")
	}
	if b.progress(minProgress); !b.more() {
		t.Error("no attempt after progress")
	}
}

func TestIsLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1:80": true, "127.9.9.9": true, "[::1]:5000": true, "::1": true, "[::1]": true,
		"localhost.example": false, "128.0.0.1": false, "registry:5000": false, "[2001:db8::1]:5000": false, "": false,
	} {
		if got := isLoopback(host); got != want {
			t.Errorf("%q: %t", host, got)
		}
	}
}

func TestTokenCacheIsBounded(t *testing.T) {
	c := newTokenCache()
	for i := range 3 * maxTokenHosts {
		c.host(fmt.Sprint(i))
	}
	if len(c.hosts) > maxTokenHosts {
		t.Errorf("%d hosts", len(c.hosts))
	}
}

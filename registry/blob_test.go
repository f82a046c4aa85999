// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
)

const kindRange, kindBlob = registrytest.KindRange, registrytest.KindBlob

// readAt reads and compares a range.
func readAt(t *testing.T, b *registry.Blob, content []byte, off, n int) error {
	t.Helper()
	p := make([]byte, n)
	if err := b.ReadAt(t.Context(), p, int64(off)); err != nil {
		return err
	}
	if !bytes.Equal(p, content[off:off+n]) {
		t.Errorf("wrong bytes at %d+%d", off, n)
	}
	return nil
}

func TestReadAt(t *testing.T) {
	legs(t, func(t *testing.T, opts registrytest.Options) {
		s := start(t, opts)
		content := random(300_000)
		b := open(t, s, registry.Options{}).Blob(add(t, s, content))
		if b.Size() != int64(len(content)) {
			t.Errorf("size %d", b.Size())
		}
		for _, r := range [][2]int{{0, 1}, {0, 300_000}, {299_999, 1}, {1000, 70_000}, {300_000, 0}, {5, 0}} {
			if err := readAt(t, b, content, r[0], r[1]); err != nil {
				t.Error(err)
			}
		}
		before := s.Stats().Range.Requests
		for _, r := range [][2]int64{{-1, 1}, {300_000, 1}, {299_999, 2}, {1 << 62, 1}, {-1 << 63, 5}} {
			if err := b.ReadAt(t.Context(), make([]byte, r[1]), r[0]); !errors.Is(err, registry.ErrRange) {
				t.Errorf("read %d+%d: %v, want ErrRange", r[0], r[1], err)
			}
		}
		if got := s.Stats().Range.Requests; got != before {
			t.Errorf("%d requests for ranges that cannot be", got-before)
		}
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				if err := readAt(t, b, content, i*10_000, 20_000); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		got, err := readAll(b.Open(t.Context()))
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("open: %d bytes, %v", len(got), err)
		}
		if opts.Redirect && s.Stats().Redirects >= s.Stats().Second.Requests {
			t.Errorf("%d redirects for %d requests: the final URL is not remembered", s.Stats().Redirects, s.Stats().Second.Requests)
		}
	})
}

func TestCutShort(t *testing.T) {
	content := random(200_000)
	for _, redirect := range []bool{false, true} {
		for _, cut := range []int64{-1, 1, 65_535, 65_536, 99_999, 100_000} {
			t.Run(fmt.Sprintf("redirect=%t,cut=%d", redirect, cut), func(t *testing.T) {
				s := start(t, registrytest.Options{Redirect: redirect})
				b := open(t, s, registry.Options{}).Blob(add(t, s, content))
				s.Inject(registrytest.Fault{Kind: kindRange, Times: 3, Truncate: cut})
				if err := readAt(t, b, content, 50_000, 100_000); err != nil {
					t.Error(err)
				}
				if got := s.Stats().Range.Bytes; got != 100_000 {
					t.Errorf("%d bytes sent for 100000: not resumed where it stopped", got)
				}
			})
			t.Run(fmt.Sprintf("open,redirect=%t,cut=%d", redirect, cut), func(t *testing.T) {
				s := start(t, registrytest.Options{Redirect: redirect})
				b := open(t, s, registry.Options{}).Blob(add(t, s, content))
				s.Inject(registrytest.Fault{Match: func(r *registrytest.Request) bool { return r.Kind == kindBlob || r.Kind == kindRange }, Times: 5, Truncate: cut})
				got, err := readAll(b.Open(t.Context()))
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				if st := s.Stats(); st.Range.Bytes+st.Blob.Bytes != 200_000 {
					t.Errorf("%d bytes sent for 200000", st.Range.Bytes+st.Blob.Bytes)
				}
			})
		}
	}
}

// TestDribble has a registry that always sends a little: that must end.
func TestDribble(t *testing.T) {
	s := start(t, registrytest.Options{})
	content := random(100_000)
	b := open(t, s, registry.Options{}).Blob(add(t, s, content))
	s.Inject(registrytest.Fault{Truncate: 10})
	if err := readAt(t, b, content, 0, 50_000); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v, want unexpected EOF", err)
	}
	if _, err := readAll(b.Open(t.Context())); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("open: %v, want unexpected EOF", err)
	}
	if n := s.Stats().Range.Requests; n > 2*9 {
		t.Errorf("%d requests", n)
	}
}

func TestRetries(t *testing.T) {
	content := random(1000)
	for _, status := range []int{429, 500, 502, 503, 504, 408} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			s := start(t, registrytest.Options{Redirect: status%2 == 0})
			b := open(t, s, registry.Options{}).Blob(add(t, s, content))
			s.Inject(registrytest.Fault{Times: 4, Status: status})
			if err := readAt(t, b, content, 3, 500); err != nil {
				t.Error(err)
			}
			s.Inject(registrytest.Fault{Status: status})
			var e *registry.Error
			if err := readAt(t, b, content, 3, 500); !errors.As(err, &e) || e.Status != status || !e.Temporary() {
				t.Errorf("%v, want a temporary %d", err, status)
			}
			s.Heal()
			if err := readAt(t, b, content, 3, 500); err != nil {
				t.Errorf("after it healed: %v", err) // no error is cached
			}
		})
	}
	for _, status := range []int{400, 401, 403, 404, 410, 416, 501} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			s := start(t, registrytest.Options{})
			b := open(t, s, registry.Options{}).Blob(add(t, s, content))
			s.Inject(registrytest.Fault{Status: status})
			var e *registry.Error
			err := readAt(t, b, content, 3, 500)
			if !errors.As(err, &e) || e.Status != status || e.Temporary() || errors.Is(err, registry.ErrRange) != (status == 416) {
				t.Errorf("%v, want a lasting %d", err, status)
			}
			if n := s.Stats().Range.Requests; n != 1 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	s := start(t, registrytest.Options{})
	content := random(1000)
	desc := add(t, s, content)
	s.Inject(registrytest.Fault{Times: 1, Status: 429, RetryAfter: time.Second})
	r := open(t, s, registry.Options{Retry: registry.Retry{MinWait: time.Millisecond, MaxWait: 5 * time.Second}})
	begin := time.Now()
	if err := readAt(t, r.Blob(desc), content, 0, 10); err != nil {
		t.Error(err)
	}
	if d := time.Since(begin); d < time.Second {
		t.Errorf("came back after %s, asked for 1s", d)
	}
	s.Inject(registrytest.Fault{Status: 429, RetryAfter: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	begin = time.Now()
	if err := r.Blob(desc).ReadAt(ctx, make([]byte, 5), 0); !errors.Is(err, context.Canceled) || time.Since(begin) > 3*time.Second {
		t.Errorf("cancelled while waiting: %v after %s", err, time.Since(begin))
	}
}

func TestUnreachable(t *testing.T) {
	s := registrytest.New(registrytest.Options{})
	content := random(100)
	r := open(t, s, registry.Options{Retry: registry.Retry{Max: 2, MinWait: 1, MaxWait: 2}})
	desc := add(t, s, content)
	s.Close()
	_, resolveErr := r.Resolve(t.Context(), "v1")
	for _, err := range []error{readAt(t, r.Blob(desc), content, 0, 9), resolveErr} {
		var e *registry.Error
		if !errors.As(err, &e) || e.Status != 0 || !e.Temporary() || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("%v", err)
		}
	}
}

// TestExpiredRedirect lets signed URLs expire between and during reads.
func TestExpiredRedirect(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 410} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			s := start(t, registrytest.Options{Redirect: true, ExpiredStatus: status, Auth: registrytest.AuthBearer})
			content := random(100_000)
			b := open(t, s, registry.Options{}).Blob(add(t, s, content))
			for range 3 {
				if err := readAt(t, b, content, 10, 1000); err != nil {
					t.Fatal(err)
				}
				s.ExpireRedirects()
			}
			s.Inject(registrytest.Fault{Kind: kindRange, Times: 1, Truncate: 100, Then: s.ExpireRedirects, Match: second})
			if err := readAt(t, b, content, 10, 50_000); err != nil {
				t.Fatal(err)
			}
			if n := s.Stats().Leaks; n != 0 {
				t.Errorf("%d requests took credentials to the second host", n)
			}
		})
	}
}

// TestCancel ends a read in every place where it may hang, and looks whether the server notices.
func TestCancel(t *testing.T) {
	for name, fault := range map[string]registrytest.Fault{
		"before the body": {Stall: -1}, "in the body": {Stall: 1000}, "before the headers": {},
	} {
		t.Run(name, func(t *testing.T) {
			reached, left := make(chan struct{}), make(chan struct{})
			var once sync.Once
			s := start(t, registrytest.Options{Hook: func(w http.ResponseWriter, r *registrytest.Request) bool {
				if r.Kind != kindRange {
					return false
				}
				context.AfterFunc(r.Context(), func() { once.Do(func() { close(left) }) })
				close(reached)
				if fault.Stall == 0 {
					<-r.Context().Done()
				}
				return fault.Stall == 0
			}})
			desc := add(t, s, random(10_000))
			if fault.Stall != 0 {
				s.Inject(fault)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			r := open(t, s, registry.Options{})
			go func() { done <- r.Blob(desc).ReadAt(ctx, make([]byte, 5000), 10) }()
			<-reached
			cancel()
			begin := time.Now()
			err := <-done
			if !errors.Is(err, context.Canceled) || time.Since(begin) > 2*time.Second {
				t.Errorf("%v after %s", err, time.Since(begin))
			}
			select {
			case <-left:
			case <-time.After(10 * time.Second):
				t.Error("the server still sees the connection")
			}
		})
	}
}

// TestStall has bodies and headers that stop coming.
func TestStall(t *testing.T) {
	content := random(10_000)
	s := start(t, registrytest.Options{})
	r := open(t, s, registry.Options{Timeouts: registry.Timeouts{Header: 200 * time.Millisecond, Stall: 50 * time.Millisecond}})
	desc := add(t, s, content)
	s.Inject(registrytest.Fault{Kind: kindRange, Times: 1, Stall: 1000})
	if err := readAt(t, r.Blob(desc), content, 10, 5000); err != nil {
		t.Error(err)
	}
	s.Inject(registrytest.Fault{Kind: kindBlob, Times: 1, Stall: 1000})
	if got, err := readAll(r.Blob(desc).Open(t.Context())); err != nil || !bytes.Equal(got, content) {
		t.Errorf("open: %d bytes, %v", len(got), err)
	}
	s.Inject(registrytest.Fault{Stall: -1})
	r = open(t, s, registry.Options{Retry: registry.Retry{Max: 1, MinWait: 1}, Timeouts: registry.Timeouts{Header: 50 * time.Millisecond, Stall: 20 * time.Millisecond}})
	if err := readAt(t, r.Blob(desc), content, 0, 50); err == nil || !strings.Contains(err.Error(), "body stalled") && !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("%v", err)
	}
	r = open(t, s, registry.Options{Timeouts: registry.Timeouts{Total: 50 * time.Millisecond}})
	if err := readAt(t, r.Blob(desc), content, 0, 50); err == nil || !strings.Contains(err.Error(), "gave up after 50ms") {
		t.Errorf("%v", err)
	}
}

func TestWrongContent(t *testing.T) {
	content, other := random(1000), make([]byte, 1000)
	s := start(t, registrytest.Options{Hook: func(w http.ResponseWriter, r *registrytest.Request) bool {
		_, _ = w.Write(other)
		return true
	}})
	rc := must[io.ReadCloser](t)(open(t, s, registry.Options{}).Blob(descOf("x/y", content)).Open(t.Context()))
	for range 2 { // also when read on
		if _, err := io.ReadAll(rc); !errors.Is(err, registry.ErrDigest) {
			t.Errorf("%v, want ErrDigest", err)
		}
	}
	if err := rc.Close(); err != nil {
		t.Error(err)
	}
}

// TestConnectionsAreReused counts the connections of many reads in a row.
func TestConnectionsAreReused(t *testing.T) {
	var mu sync.Mutex
	addrs := map[string]bool{}
	s := start(t, registrytest.Options{Redirect: true, Hook: func(w http.ResponseWriter, r *registrytest.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		addrs[r.RemoteAddr] = true
		return false
	}})
	content := random(100_000)
	b := open(t, s, registry.Options{}).Blob(add(t, s, content))
	for i := range 50 {
		if err := readAt(t, b, content, i*1000, 50_000); err != nil {
			t.Fatal(err)
		}
		s.ExpireRedirects()
	}
	if len(addrs) > 4 {
		t.Errorf("%d connections for reads one after the other", len(addrs))
	}
}

func second(r *registrytest.Request) bool { return r.Second }

// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// sick is what a registry does with a request for a blob, or a part of one.
type sick func(w http.ResponseWriter, r *registrytest.Request)

// page answers with a body of a type.
func page(status int, contentType, body string) sick {
	return func(w http.ResponseWriter, _ *registrytest.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// zeros answers a range with zeros in its place.
func zeros(w http.ResponseWriter, r *registrytest.Request) {
	var from, to int64
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/*", from, to))
	w.WriteHeader(http.StatusPartialContent)
	_, _ = w.Write(make([]byte, to-from+1))
}

// reset ends the connection without a word.
func reset(w http.ResponseWriter, _ *registrytest.Request) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// newShort is a snapshotter that has little patience with registries.
func newShort(t *testing.T, mirrors func(string) []registry.Mirror) *Snapshotter {
	t.Helper()
	client := must(registry.NewClient(registry.Options{
		Credential: func(context.Context, string) (registry.Credential, error) { return registry.Credential{}, nil },
		Mirrors:    mirrors,
		Retry:      registry.Retry{Max: 2, MinWait: time.Millisecond, MaxWait: 5 * time.Millisecond},
		Timeouts:   registry.Timeouts{Header: 2 * time.Second, Stall: 2 * time.Second, Total: 10 * time.Second},
	}))(t)
	s := must(New(t.Context(), Options{Root: t.TempDir(), Registry: client, Log: testLog(t), Discover: []index.Version{index.V1, index.V2},
		Background: Background{Disable: true}, Spans: span.Options{Retries: 2}}))(t)
	t.Cleanup(func() { s.Close() })
	return s
}

// cold has the kernel ask for all files again.
func cold(t *testing.T) {
	t.Helper()
	check(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
}

// TestRegistryFaults reads from a container while its registry does what registries must
// not, for good: what is not here is an error, soon and after few requests; what is here is
// served all the time; and when it is over all works again by itself.
func TestRegistryFaults(t *testing.T) {
	needFUSE(t)
	login := strings.Repeat("<html>log in</html>", 1000)
	faults := map[string]sick{
		"reset": reset,
		"stall": func(_ http.ResponseWriter, r *registrytest.Request) { <-r.Context().Done() },
		"drip": func(w http.ResponseWriter, r *registrytest.Request) {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for range 10_000 {
				if _, err := w.Write([]byte{0}); err != nil || http.NewResponseController(w).Flush() != nil {
					return
				}
				select {
				case <-tick.C:
				case <-r.Context().Done():
					return
				}
			}
		},
		"404":         page(404, "application/json", "{}"),
		"401":         page(401, "application/json", "{}"),
		"403":         page(403, "application/json", "{}"),
		"429":         page(429, "application/json", "{}"),
		"500":         page(500, "text/plain", "out of order"),
		"login":       page(200, "text/html", login),
		"wrong bytes": zeros,
		"416":         page(416, "text/plain", ""),
		"other range": func(w http.ResponseWriter, _ *registrytest.Request) {
			w.Header().Set("Content-Range", "bytes 0-9/10")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(make([]byte, 10))
		},
	}
	var current atomic.Pointer[sick]
	var asked atomic.Int64
	reg := registrytest.New(registrytest.Options{Redirect: true, Hook: func(w http.ResponseWriter, r *registrytest.Request) bool {
		if r.Kind != registrytest.KindRange && r.Kind != registrytest.KindBlob {
			return false
		}
		asked.Add(1)
		f := current.Load()
		if f != nil {
			(*f)(w, r)
		}
		return f != nil
	}})
	defer reg.Close()
	files := [][]ztoctest.File{{ztoctest.Big(1, "here", 600<<10)}}
	var names []string
	for name := range faults {
		names = append(names, name)
		files = append(files, []ztoctest.File{ztoctest.Big(uint64(10+len(names)), strings.ReplaceAll(name, " ", "-"), 300<<10)})
	}
	i := newImageOf(t, newMemory(), "", files...).build(t, -1)
	i.push(t, reg, "library/app")
	s := newShort(t, nil)
	pullImage(t, s, i)
	dir := run(t, s, "container", i.top())
	here := filepath.Join(dir, "here")
	read := func(path string) (string, error) {
		out, err := exec.Command("sha256sum", path).CombinedOutput()
		return strings.Fields(string(out))[0], err
	}
	want := must(read(here))(t)
	truth := unpackAll(t, i)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			f := faults[name]
			current.Store(&f)
			asked.Store(0)
			path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			for range 2 { // no error is remembered, nor is anything that would keep a healthy registry away
				begin := time.Now()
				out, err := exec.Command("cat", path).CombinedOutput()
				if err == nil || !strings.Contains(string(out), "Input/output error") {
					t.Errorf("read: %v, %d bytes", err, len(out))
				}
				if d := time.Since(begin); d > 30*time.Second {
					t.Errorf("that took %v", d)
				}
				cold(t)
				if got, err := read(here); err != nil || got != want {
					t.Errorf("what is here: %q, %v", got, err)
				}
			}
			if n := asked.Load(); n == 0 || n > 300 {
				t.Errorf("%d requests", n)
			}
			current.Store(nil)
			got, err := read(path)
			if err != nil || got != must(read(filepath.Join(truth, strings.ReplaceAll(name, " ", "-"))))(t) {
				t.Errorf("when it is over: %q, %v", got, err)
			}
		})
	}
}

// TestWrongMirror reads from a mirror that sends wrong bytes, now and then or always: the
// origin has the right ones.
func TestWrongMirror(t *testing.T) {
	needFUSE(t)
	origin := registrytest.New(registrytest.Options{})
	defer origin.Close()
	var lies atomic.Int64
	mirror := registrytest.New(registrytest.Options{Hook: func(w http.ResponseWriter, r *registrytest.Request) bool {
		if r.Kind != registrytest.KindRange {
			return false
		}
		lies.Add(1)
		zeros(w, r)
		return true
	}})
	defer mirror.Close()
	i := newImage(t, newMemory(), "", 1, 2).build(t, -1)
	i.push(t, mirror, "library/app")
	i.push(t, origin, "library/app")
	s := newShort(t, func(string) []registry.Mirror { return []registry.Mirror{{Host: mirror.Host()}} })
	pullImage(t, s, i)
	if got, want := sums(t, run(t, s, "container", i.top())), sums(t, unpackAll(t, i)); got != want {
		t.Errorf("container reads\n%swant\n%s", got, want)
	}
	if n := lies.Load(); n == 0 || n > 20 {
		t.Errorf("the mirror was asked %d times", n)
	}
}

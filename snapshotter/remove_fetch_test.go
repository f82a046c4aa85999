// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestRemoveEndsFetches removes images while their layers are being fetched from registries that send some bytes and then
// none: the request under way ends, and none comes after it, of whoever fetches.
func TestRemoveEndsFetches(t *testing.T) {
	needFUSE(t)
	for name, c := range map[string]struct {
		opts    registrytest.Options
		unpacks bool // the second layer is unpacked ahead
	}{
		"fill":     {},
		"download": {opts: registrytest.Options{NoRange: true}},
		"unpack":   {unpacks: true},
	} {
		t.Run(name, func(t *testing.T) {
			big := func(seed uint64) []ztoctest.File { return []ztoctest.File{ztoctest.Big(seed, "big", 4<<20)} }
			i := newImageOf(t, newMemory(), "", big(1), big(2)).build(t, -1)
			slow := i.manifest.Layers[0].Digest
			if c.unpacks {
				slow = i.manifest.Layers[1].Digest
				i.bindIndex(t, i.index.Layers[0])
			}
			var asked atomic.Int64
			began, ended := make(chan struct{}, 100), make(chan struct{}, 100)
			c.opts.Hook = func(w http.ResponseWriter, r *registrytest.Request) bool {
				if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, slow.String()) {
					return false
				}
				asked.Add(1)
				p, _ := i.m.get(slow)
				switch {
				case c.opts.NoRange, c.unpacks:
					w.Header().Set("Content-Length", strconv.Itoa(len(p)))
					w.WriteHeader(http.StatusOK)
				default:
					var from, to int
					_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to)
					w.Header().Set("Content-Length", strconv.Itoa(to-from+1))
					w.Header().Set("Content-Range", "bytes "+strconv.Itoa(from)+"-"+strconv.Itoa(to)+"/"+strconv.Itoa(len(p)))
					w.WriteHeader(http.StatusPartialContent)
				}
				_, _ = w.Write(p[:100])
				_ = http.NewResponseController(w).Flush()
				began <- struct{}{}
				<-r.Context().Done()
				ended <- struct{}{}
				return true
			}
			reg := registrytest.New(c.opts)
			defer reg.Close()
			i.push(t, reg, "library/app")
			client := must(registry.NewClient(registry.Options{
				Credential: func(context.Context, string) (registry.Credential, error) { return registry.Credential{}, nil },
				Retry:      registry.Retry{Max: 5, MinWait: time.Millisecond, MaxWait: time.Millisecond},
			}))(t)
			s := must(New(t.Context(), Options{Root: t.TempDir(), Registry: client, Log: testLog(t)}))(t)
			t.Cleanup(func() { s.Close() })
			last := len(i.chains) - 1
			if c.unpacks {
				last = 0 // containerd does not come to ask for the other
			}
			pullUpTo(t, s, i, last)
			<-began
			for n := last; n >= 0; n-- {
				check(t, s.Remove(testContext(t), i.chains[n].String()))
			}
			<-ended
			n := asked.Load()
			if len(s.Layers()) != 0 {
				t.Errorf("%d layers are served", len(s.Layers()))
			}
			// Somebody else's image, fetched to its end, so that there is time for what must not come.
			other := newImageOf(t, newMemory(), "", []ztoctest.File{ztoctest.Big(3, "big", 100_000)}).build(t, -1)
			other.push(t, reg, "library/other")
			pullUpTo(t, s, other, 0)
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for {
				if l := s.Layers(); len(l) == 1 && l[0].Complete {
					break
				}
				<-tick.C
			}
			if m := asked.Load(); m != n {
				t.Errorf("%d requests for a layer that is gone", m-n)
			}
		})
	}
}

// pullUpTo pulls the layers of i up to the one with number last.
func pullUpTo(t *testing.T, s *Snapshotter, i *testImage, last int) {
	t.Helper()
	for n := range last + 1 {
		_, err := s.Prepare(testContext(t), "extract-"+i.chains[n].String(), i.parent(n), snapshots.WithLabels(i.labels(n)))
		if !errdefs.IsAlreadyExists(err) {
			t.Fatalf("prepare layer %d of %s: %v", n, i.name, err)
		}
	}
}

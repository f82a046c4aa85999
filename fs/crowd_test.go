// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestStampede has ten thousand readers wait for one file that is not there yet: what that
// takes is bounded, and all of them get the right bytes.
func TestStampede(t *testing.T) {
	const processes, each, page = 4, 2500, 4096
	f := mustMount(t)
	b := mustBuild(t, []ztoctest.File{ztoctest.Big(1, "big", each*page)})
	gate := make(chan struct{})
	b.blob.hook = func(ctx context.Context) error {
		select {
		case <-gate:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	d, _ := mustAttach(t, f, "layer", b)
	runtime.GC()
	var before, during runtime.MemStats
	runtime.ReadMemStats(&before)
	var all [processes]*exec.Cmd
	var out [processes]bytes.Buffer
	for i := range all {
		all[i] = command(t, "crowd", filepath.Join(d, "big"), fmt.Sprint(each))
		all[i].Stdout = &out[i]
		must(t, all[i].Start())
	}
	until(t, func() bool { return f.server.count.Load() == maxLoops }) // the others wait in the kernel
	runtime.ReadMemStats(&during)
	if grown := int64(during.HeapInuse) - int64(before.HeapInuse); grown > 256<<20 {
		t.Errorf("%d MB of heap for requests that wait", grown>>20)
	}
	close(gate)
	for i, c := range all {
		must(t, c.Wait())
		sums := strings.Fields(out[i].String())
		if len(sums) != each {
			t.Fatalf("%d pages read", len(sums))
		}
		e := b.z.TOC[0]
		for k, sum := range sums {
			if want := fmt.Sprintf("%x", sha256.Sum256(b.tar[e.Offset+int64(k)*page:][:page])); sum != want {
				t.Fatalf("page %d: wrong bytes", k)
			}
		}
	}
	until(t, func() bool { return f.server.count.Load() <= idleLoops+1 })
	f.server.workers.mu.Lock()
	defer f.server.workers.mu.Unlock()
	if n := len(f.server.workers.free); n > keptWorkers {
		t.Errorf("%d workers are kept", n)
	}
}

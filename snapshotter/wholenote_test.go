// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/fs/span"
)

// moodyBlob is a blob whose registry gives parts of it, or not.
type moodyBlob struct {
	blob
	parts *atomic.Bool
}

func (b *moodyBlob) OpenRangeOrWhole(ctx context.Context, off, n int64) (io.ReadCloser, bool, error) {
	whole := !b.parts.Load()
	if whole {
		off, n = 0, b.Size()
	}
	r, err := b.OpenRange(ctx, off, n)
	return r, whole, err
}

// TestWholeNoted holds that it outlives a restart that a layer is to be had as a whole only, and so is not to be
// evicted, and that a registry which has learnt to give parts of it is noticed.
func TestWholeNoted(t *testing.T) {
	i := newImage(t, newMemory(), "registry.test/app:1", 1).build(t, -1)
	f := newFixture(t, i.m, Options{})
	var parts atomic.Bool
	fakes := f.ports
	f.ports = func() ports {
		p := fakes()
		p.repos = func(image string) (repository, error) {
			r, err := i.m.repos(image)
			plain := r.blob
			r.blob = func(d ocispec.Descriptor) blob { return &moodyBlob{plain(d), &parts} }
			return r, err
		}
		return p
	}
	f.restart(func() {})
	f.prepareAll(i)
	key := i.key(0)
	read := func(off, n int64) {
		t.Helper()
		l, _ := f.layers.get(key)
		r := must(l.src.Load().Open(t.Context(), off, n))(t)
		must(io.Copy(io.Discard, r))(t)
		check(t, r.Close())
	}
	want := func(when string, keep bool) {
		t.Helper()
		if got := f.uses()[key] == span.Keep; got != keep {
			t.Errorf("%s: is to be kept: %t", when, got)
		}
		tick := time.NewTicker(time.Millisecond) // it is noted in the background
		defer tick.Stop()
		for must(f.layers.states.loadState(key))(t).Whole != keep {
			select {
			case <-tick.C:
			case <-t.Context().Done():
				t.Fatalf("%s: not on disk", when)
			}
		}
	}
	size := i.manifest.Layers[0].Size
	want("at first", false)
	read(1, 2)
	want("downloaded", true)
	f.restart(func() { parts.Store(true) })
	want("after a restart", true)
	read(0, size) // an answer of all of it says nothing
	want("read as a whole", true)
	read(1, 2)
	want("a part was given", false)
	f.restart(func() { parts.Store(false) })
	want("after another restart", false)
}

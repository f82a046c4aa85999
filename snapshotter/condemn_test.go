// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// lie makes i say that its first layer is another.
func (i *testImage) lie(t testing.TB) {
	t.Helper()
	i.diffs[0] = digest.FromString("another")
	i.chains[0] = i.diffs[0]
	i.manifest.Config = i.m.putJSON(ocispec.MediaTypeImageConfig, ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: i.diffs}})
	i.bindIndex(t, i.index.Layers...)
}

// TestCondemnedApart holds that an image which says of a layer what it is not does no harm
// to those that have the same layer and zTOC and tell the truth, before, beside or after it.
func TestCondemnedApart(t *testing.T) {
	m := newMemory()
	opts, told := completions()
	f := newFixture(t, m, opts)
	honest := newImage(t, m, "registry.test/app:1", 1).build(t, -1)
	liar := newImage(t, m, "registry.test/liar:1", 1).build(t, -1)
	liar.lie(t)
	if honest.key(0) != liar.key(0) {
		t.Fatal("the images do not share the layer")
	}
	ctx := testContext(t)
	refused := func() {
		t.Helper()
		if _, err := f.prepare(liar, 0); err != nil || f.last.Kind != Fallback || f.last.Reason != ReasonUnpack {
			t.Fatalf("pull of a lie: %v, %+v", err, f.last)
		}
	}
	verified := func() {
		t.Helper()
		f.mustPrepare(honest, 0, Lazy)
		if c := <-told; c.Result != Verified {
			t.Fatalf("completion %+v", c)
		}
	}
	verified()
	refused()
	if l := f.Layers(); len(l) != 1 || !l[0].Verified {
		t.Errorf("layers %+v", l)
	}
	check(t, f.Remove(ctx, honest.top()))
	removeActive(t, f, liar)

	f.mustPrepare(liar, 0, Lazy)
	if c := <-told; c.Result != Mismatch {
		t.Fatalf("completion %+v", c)
	}
	// While the liar's snapshot is there it would be served what the honest one says.
	for range 2 {
		f.mustPrepare(honest, 0, Local)
		check(t, f.Remove(ctx, honest.top()))
		if _, err := f.Prepare(ctx, "container", liar.top()); !errdefs.IsUnavailable(err) {
			t.Fatalf("Prepare of a container: %v", err)
		}
		f.restart(func() {})
	}
	check(t, f.Remove(ctx, liar.top()))
	verified()
	f.restart(func() {})
	if c := <-told; c.Result != Verified {
		t.Errorf("completion %+v", c)
	}
	refused()
}

// removeActive removes the snapshot that containerd was left to unpack the first layer of i to.
func removeActive(t testing.TB, f *fixture, i *testImage) {
	t.Helper()
	check(t, f.Remove(testContext(t), "extract-"+i.name+" "+i.chains[0].String()))
}

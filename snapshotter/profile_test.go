// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/ztoc"
)

// read reads one byte at off of layer n of i, as the mount would.
func (f *fixture) read(i *testImage, n int, off int64) {
	f.t.Helper()
	l, ok := f.layers.get(i.lazyKey(n))
	if !ok {
		f.t.Fatalf("layer %d is not served", n)
	}
	data, _ := l.spans()
	check(f.t, data.ReadAt(f.t.Context(), make([]byte, 1), off))
}

// lazyKey is the key of layer n served with the zTOC that is preferred.
func (i *testImage) lazyKey(n int) string {
	return layerKey(i.manifest.Layers[n].Digest, ztocs(i.index, i.manifest.Layers[n].Digest)[0].Digest)
}

// prefetched returns options of a snapshotter and a channel that tells of prefetched layers.
func prefetched() (Options, chan digest.Digest) {
	told := make(chan digest.Digest, 100)
	return Options{OnOperation: func(op Operation, d digest.Digest, _ time.Duration) {
		if op == OpPrefetch {
			told <- d
		}
	}}, told
}

// TestProfile holds that what a start reads is fetched ahead when the image is pulled
// again, in that order, and that another image with the layer has that too.
func TestProfile(t *testing.T) {
	m := newMemory()
	opts, told := prefetched()
	f := newFixture(t, m, opts)
	i := newImage(t, m, "registry.test/app:1", 1, 2).build(t, -1)
	ctx := testContext(t)
	f.prepareAll(i)
	must(f.Prepare(ctx, "container", i.top()))(t)
	f.read(i, 0, 300_000)
	f.read(i, 0, 0)
	f.read(i, 1, 100_000)
	f.restart(func() {}) // which ends the recording
	for n, want := range []int{2, 1} {
		p, exact, err := f.recorder.profiles.Load(i.manifest.Layers[n].Digest, i.desc.Digest)
		if err != nil || !exact || len(p.Ranges) != want {
			t.Fatalf("profile of layer %d: %+v, %t, %v", n, p, exact, err)
		}
	}
	check(t, f.Remove(ctx, "container"))
	check(t, f.Remove(ctx, i.top()))
	check(t, f.Remove(ctx, i.chains[0].String()))

	other := newImage(t, m, "registry.test/other:1", 1).build(t, -1)
	for _, i := range []*testImage{i, other} {
		f.prepareAll(i)
		for range i.chains {
			<-told
		}
		for n := range i.chains {
			l, _ := f.layers.get(i.lazyKey(n))
			data, _ := l.spans()
			if s := data.Stats(); s.SpansFetched == 0 || s.SpansPresent == s.Spans || s.BytesServed != 0 {
				t.Errorf("layer %d: %+v", n, s)
			}
		}
		m.setHook(func(_ context.Context, op string, _ digest.Digest) error {
			if op == "read" {
				return errInjected
			}
			return nil
		})
		f.read(i, 0, 300_000)
		f.read(i, 0, 0)
		failOn(m, "", "")
		for n := range i.chains {
			check(t, f.Remove(ctx, i.chains[len(i.chains)-1-n].String()))
		}
	}
}

// artifact puts a profile or prefetch artifact of a layer into m.
func (m *memory) artifact(layer digest.Digest, p []byte, desc ocispec.Descriptor) ocispec.Descriptor {
	desc = as(m.put(desc.MediaType, p), desc.MediaType, layer)
	return desc
}

// TestListedProfile holds what of an index's profiles and prefetch artifacts is used, with which zTOC.
func TestListedProfile(t *testing.T) {
	good := compactImage(t)
	layer := good.manifest.Layers[0].Digest
	z, c := good.index.Layers[0], good.index.Layers[2]
	zinfo := must(ztoc.Open(must(good.m.get(z.Digest))(t)))(t).ZInfo()
	last := len(zinfo.Spans) - 1
	for zinfo.Spans[last].Out.Len == 0 {
		last--
	}
	far := zinfo.Spans[last].Out.Off
	list := func(i *testImage, size, off int64) ocispec.Descriptor {
		p, desc, err := index.NewProfile(size, []ztoc.Range{{Off: off, Len: 10}}).Marshal()
		check(t, err)
		return i.m.artifact(layer, p, desc)
	}
	spans := func(i *testImage, n int) ocispec.Descriptor {
		p, desc, err := (&index.Prefetch{Spans: []index.SpanRange{{Start: n, End: n + 1}}}).Marshal()
		check(t, err)
		return i.m.artifact(layer, p, desc)
	}
	for _, v := range []struct {
		name string
		list func(i *testImage) []ocispec.Descriptor
		want int64 // an offset that is there then; -1: nothing is prefetched
	}{
		{"nothing", func(*testImage) []ocispec.Descriptor { return nil }, -1},
		{"profile", func(i *testImage) []ocispec.Descriptor {
			return []ocispec.Descriptor{list(i, zinfo.UncompressedSize, far)}
		}, far},
		{"profile before prefetch artifact", func(i *testImage) []ocispec.Descriptor {
			return []ocispec.Descriptor{spans(i, 0), list(i, zinfo.UncompressedSize, far)}
		}, far},
		{"prefetch artifact", func(i *testImage) []ocispec.Descriptor { return []ocispec.Descriptor{spans(i, last)} }, far},
		{"prefetch artifact of other spans", func(i *testImage) []ocispec.Descriptor { return []ocispec.Descriptor{spans(i, 1<<30)} }, -2},
		{"profile of another layer", func(i *testImage) []ocispec.Descriptor {
			return []ocispec.Descriptor{spans(i, last), list(i, zinfo.UncompressedSize+1, 0)}
		}, far},
		{"garbage", func(i *testImage) []ocispec.Descriptor {
			return []ocispec.Descriptor{
				i.m.artifact(layer, []byte("{"), ocispec.Descriptor{MediaType: index.MediaTypeProfile}),
				i.m.artifact(layer, []byte("{}"), ocispec.Descriptor{MediaType: index.MediaTypePrefetch}),
			}
		}, -1},
		{"missing", func(i *testImage) []ocispec.Descriptor {
			d := list(i, zinfo.UncompressedSize, far)
			delete(i.m.blobs, d.Digest)
			return []ocispec.Descriptor{d}
		}, -1},
	} {
		for _, compact := range []bool{false, true} {
			t.Run(fmt.Sprint(v.name, " compact ", compact), func(t *testing.T) {
				i := good.clone()
				listed := []ocispec.Descriptor{z}
				if compact {
					listed = append(listed, c)
				}
				i.bindIndex(t, append(listed, v.list(i)...)...)
				opts, told := prefetched()
				f := newFixture(t, i.m, opts)
				_, err := f.Prepare(testContext(t), "key", "", snapshots.WithLabels(i.labels(0)))
				if f.last.Kind != Lazy {
					t.Fatal(err)
				}
				l, _ := f.layers.get(i.lazyKey(0))
				data, zi := l.spans()
				if v.want == -1 {
					f.tasks.close()
				} else {
					<-told
				}
				s := data.Stats()
				if n := s.SpansFetched; (n > 0) != (v.want >= 0) || s.SpansPresent == s.Spans {
					t.Fatalf("%d of %d spans are there", n, s.Spans)
				}
				if v.want >= 0 {
					failOn(i.m, "read", layer)
					check(t, data.ReadAt(t.Context(), make([]byte, 1), zi.Spans[zi.SpanAt(v.want)].Out.Off))
				}
			})
		}
	}
}

// TestPrefetchBounds holds that zTOCs which are fetched for a hint's sake are so one at a
// time, and not at all if they are large.
func TestPrefetchBounds(t *testing.T) {
	i := compactImage(t)
	all := slices.Clone(i.index.Layers)
	all[1].Size = maxHintZTOC + 1
	for _, l := range i.manifest.Layers {
		p, desc, err := (&index.Prefetch{Spans: []index.SpanRange{{Start: 0, End: 1}}}).Marshal()
		check(t, err)
		all = append(all, i.m.artifact(l.Digest, p, desc))
	}
	i.bindIndex(t, all...)
	f := newFixture(t, i.m, Options{})
	i.m.setHook(func(_ context.Context, op string, d digest.Digest) error {
		if op == "fetch" && (d == all[0].Digest || d == all[1].Digest) && f.hints.ztocs.TryAcquire(1) {
			t.Errorf("zTOC %s is fetched beside others", d)
			f.hints.ztocs.Release(1)
		}
		return nil
	})
	i.m.forget()
	f.prepareAll(i)
	f.tasks.wg.Wait()
	if n := i.m.fetched(); n[all[0].Digest] != 1 || n[all[1].Digest] != 0 {
		t.Errorf("fetched %d and %d times", n[all[0].Digest], n[all[1].Digest])
	}
}

// TestBadProfile holds that a profile on disk that is of no use does no harm.
func TestBadProfile(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	i := newImage(t, m, "registry.test/app:1", 1, 2).build(t, -1)
	dir := filepath.Join(f.opts.Root, "soci", "profiles", i.manifest.Layers[0].Digest.Encoded())
	check(t, os.MkdirAll(dir, 0o700))
	check(t, os.WriteFile(filepath.Join(dir, i.desc.Digest.Encoded()+".json"), []byte(`{"version":1,"size":7,"ranges":[[0,7]]}`), 0o600))
	dir = filepath.Join(f.opts.Root, "soci", "profiles", i.manifest.Layers[1].Digest.Encoded())
	check(t, os.MkdirAll(dir, 0o700))
	check(t, os.WriteFile(filepath.Join(dir, i.desc.Digest.Encoded()+".json"), []byte("garbage"), 0o600))
	f.prepareAll(i)
	f.tasks.close()
	for _, l := range f.Layers() {
		if l.Spans.SpansFetched != 0 {
			t.Errorf("fetched %+v", l)
		}
	}
	f.checkServed(i)
}

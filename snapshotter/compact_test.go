// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/fs"
	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/ztoc"
)

// compactImage is an image of two layers with zTOCs of both formats. In its index they are in the order: 0.9,
// 0.9, compact, compact.
func compactImage(t *testing.T) *testImage {
	t.Helper()
	i := newImage(t, newMemory(), "registry.test/app:1", 1, 2)
	i.buildWith(t, index.BuildOptions{MinLayerSize: -1, CompactSpanSize: 64 << 10})
	if n := len(i.index.Layers); n != 4 {
		t.Fatalf("index of %d zTOCs", n)
	}
	return i
}

// as is d under another media type, or of another layer.
func as(d ocispec.Descriptor, mediaType string, layer digest.Digest) ocispec.Descriptor {
	d = ztocDesc(d, layer)
	d.MediaType = mediaType
	return d
}

// TestCompact holds that a layer is served with its compact zTOC, and with the other one if there is anything wrong with that.
func TestCompact(t *testing.T) {
	good := compactImage(t)
	layer := good.manifest.Layers[0].Digest
	z, c := good.index.Layers[0], good.index.Layers[2]
	for _, v := range []struct {
		name    string
		spoil   func(t *testing.T, i *testImage)
		kind    Kind
		format  ztoc.Format
		reason  Reason // that is logged or, if the layer is not lazy, the decision's
		untried digest.Digest
	}{
		{name: "good", kind: Lazy, format: ztoc.FormatCompact, untried: z.Digest},
		{name: "missing", kind: Lazy, format: ztoc.Format09, reason: ReasonZTOCFetch,
			spoil: func(_ *testing.T, i *testImage) { failOn(i.m, "fetch", c.Digest) }},
		{name: "swapped", kind: Lazy, format: ztoc.Format09, reason: ReasonZTOCFetch,
			spoil: func(_ *testing.T, i *testImage) { i.m.blobs[c.Digest] = []byte("swapped") }},
		{name: "too large", kind: Lazy, format: ztoc.Format09, reason: ReasonZTOCFetch, untried: c.Digest,
			spoil: func(t *testing.T, i *testImage) {
				d := c
				d.Size = maxZTOCSize + 1
				i.bindIndex(t, z, d)
			}},
		{name: "garbage", kind: Lazy, format: ztoc.Format09, reason: ReasonZTOCInvalid,
			spoil: func(t *testing.T, i *testImage) {
				i.bindIndex(t, z, as(i.m.put("", []byte("garbage")), index.MediaTypeCompact, layer))
			}},
		{name: "damaged", kind: Lazy, format: ztoc.Format09, reason: ReasonZTOCInvalid,
			spoil: func(t *testing.T, i *testImage) {
				p := bytes.Clone(must(i.m.get(c.Digest))(t))
				i.bindIndex(t, z, as(i.m.put("", p[:len(p)/2]), index.MediaTypeCompact, layer))
			}},
		{name: "of another layer", kind: Lazy, format: ztoc.Format09, reason: ReasonZTOCMismatch,
			spoil: func(t *testing.T, i *testImage) {
				i.bindIndex(t, z, as(i.index.Layers[3], index.MediaTypeCompact, layer))
			}},
		{name: "alone", kind: Lazy, format: ztoc.FormatCompact,
			spoil: func(t *testing.T, i *testImage) { i.bindIndex(t, c) }},
		{name: "of a later version", kind: Lazy, format: ztoc.Format09, untried: c.Digest,
			spoil: func(t *testing.T, i *testImage) {
				i.bindIndex(t, z, as(c, "application/vnd.seekoci.ztoc.compact.v2", layer))
			}},
		{name: "both bad", kind: Local, reason: ReasonZTOCInvalid,
			spoil: func(t *testing.T, i *testImage) {
				bad := i.m.put("", []byte("garbage"))
				i.bindIndex(t, as(bad, index.MediaTypeZTOC, layer), as(i.index.Layers[3], index.MediaTypeCompact, layer))
			}},
	} {
		t.Run(v.name, func(t *testing.T) {
			i := good.clone()
			if v.spoil != nil {
				v.spoil(t, i)
			}
			f := newFixture(t, i.m, Options{})
			var log bytes.Buffer
			f.Snapshotter.opts.Log = slog.New(slog.NewTextHandler(&log, nil))
			mounts, err := f.Prepare(testContext(t), "key", "", snapshots.WithLabels(i.labels(0)))
			if f.last.Kind != v.kind || f.last.Format != v.format || v.kind != Lazy && f.last.Reason != v.reason {
				t.Fatalf("decision %+v, want %s with zTOC %q, reason %q", f.last, v.kind, v.format, v.reason)
			}
			checkOutcome(t, f, i, mounts != nil, err)
			if n := i.m.fetched()[v.untried]; n != 0 {
				t.Errorf("%s was fetched %d times", v.untried, n)
			}
			warned := strings.Count(log.String(), "zTOC is not usable")
			fell := 0
			if v.reason != "" {
				fell = 1
			}
			if warned != fell || !strings.Contains(log.String(), "reason="+string(v.reason)) && fell > 0 {
				t.Errorf("warned %d times, log:\n%s", warned, log.String())
			}
			if v.kind == Lazy && !strings.Contains(log.String(), "format="+string(v.format)) {
				t.Errorf("the log does not tell format %q:\n%s", v.format, log.String())
			}
		})
	}
}

// TestCompactRestore holds that a layer is served with its compact zTOC again after a restart, without a request,
// and if its state is gone, from the registry.
func TestCompactRestore(t *testing.T) {
	i := compactImage(t)
	f := newFixture(t, i.m, Options{})
	if _, err := f.prepare(i, 0); !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	key := layerKey(i.manifest.Layers[0].Digest, i.index.Layers[2].Digest)
	i.m.forget()
	f.restart(func() {})
	if !f.mount.attached[key] || len(i.m.fetched()) != 0 {
		t.Errorf("attached %v after %d requests", f.mount.attached, len(i.m.fetched()))
	}
	f.restart(func() { check(t, os.RemoveAll(f.layers.states.path(key, ""))) })
	if f.mount.names() != 0 {
		t.Fatalf("attached %v without state", f.mount.attached)
	}
	must(f.Prepare(testContext(t), "container", i.parent(1)))(t)
	if !f.mount.attached[key] || i.m.fetched()[i.index.Layers[2].Digest] == 0 || i.m.fetched()[i.index.Layers[0].Digest] != 0 {
		t.Errorf("attached %v, fetched %v", f.mount.attached, i.m.fetched())
	}

	// Where the compact zTOC is not to be had any more, the other one does, under a key of its own.
	f.restart(func() {
		check(t, os.RemoveAll(f.layers.states.path(key, "")))
		failOn(i.m, "fetch", i.index.Layers[2].Digest)
	})
	must(f.Prepare(testContext(t), "container2", i.parent(1)))(t)
	plain := layerKey(i.manifest.Layers[0].Digest, i.index.Layers[0].Digest)
	if !f.mount.attached[plain] || f.mount.attached[key] {
		t.Errorf("attached %v, want %s", f.mount.attached, plain)
	}
	info := must(f.Stat(testContext(t), i.chains[0].String()))(t)
	if got := info.Labels[labelZTOC]; got != i.index.Layers[0].Digest.String() {
		t.Errorf("label says zTOC %s", got)
	}
}

// TestCompactInUse holds that a layer which may be in use waits for its own zTOC and takes no other: the node ids of
// those who use it would mean nothing.
func TestCompactInUse(t *testing.T) {
	i := compactImage(t)
	f := newFixture(t, i.m, Options{})
	f.prepareAll(i)
	key := layerKey(i.manifest.Layers[0].Digest, i.index.Layers[2].Digest)
	was := must(f.layers.states.loadState(key))(t).Slot
	f.restart(func() {
		check(t, os.Remove(f.layers.states.path(key, "ztoc")))
		failOn(i.m, "fetch", i.index.Layers[2].Digest)
	})
	f.repairAll() // as after the taking over of a mount
	if _, err := f.Prepare(testContext(t), "container", i.top()); !errdefs.IsUnavailable(err) || f.mount.names() != 1 {
		t.Errorf("%d layers are attached: %v", f.mount.names(), err)
	}
	failOn(i.m, "", "")
	must(f.Prepare(testContext(t), "container", i.top()))(t)
	if st := must(f.layers.states.loadState(key))(t); !f.mount.attached[key] || st.Slot != was {
		t.Errorf("attached %v, in slot %d, want %s in %d", f.mount.attached, st.Slot, key, was)
	}
}

// TestCompactGone has the registry lose the zTOC of a layer that may be in use: after some time it gets the other one.
func TestCompactGone(t *testing.T) {
	i := compactImage(t)
	f := newFixture(t, i.m, Options{})
	f.prepareAll(i)
	key := layerKey(i.manifest.Layers[0].Digest, i.index.Layers[2].Digest)
	var failed atomic.Bool
	f.restart(func() {
		check(t, os.Remove(f.layers.states.path(key, "ztoc")))
		i.m.setHook(func(_ context.Context, op string, d digest.Digest) error {
			switch {
			case op != "fetch" || d != i.index.Layers[2].Digest:
				return nil
			case failed.Load():
				return errInjected
			}
			return errdefs.ErrNotFound
		})
	})
	f.mu.Lock()
	r := f.remote[i.chains[0].String()]
	f.mu.Unlock()
	r.used.Store(true)
	other := false
	waits := 0
	f.repairUntil(t.Context(), r, func(time.Duration) <-chan time.Time {
		waits++
		if f.mount.names() != 1 {
			t.Errorf("after %d tries %v are attached", waits, f.mount.attached)
		}
		switch waits {
		case 20: // the registry is away
			other = true
		case 21: // and does not have the zTOC again
			if other = false; !r.gone.IsZero() {
				t.Error("the registry has not said that it does not have the zTOC")
			}
		case 30:
			r.gone = r.gone.Add(-goneAfter)
		}
		failed.Store(other)
		now := make(chan time.Time, 1)
		now <- time.Time{}
		return now
	})
	if plain := layerKey(i.manifest.Layers[0].Digest, i.index.Layers[0].Digest); waits != 30 || !f.mount.attached[plain] || !r.gone.IsZero() {
		t.Errorf("after %d tries %v are attached", waits, f.mount.attached)
	}
	must(f.Prepare(testContext(t), "container", i.top()))(t)
}

// TestCompactRefused holds that a compact zTOC whose table turns out to be malformed when the layer is attached leaves
// nothing behind, and the other one is taken.
func TestCompactRefused(t *testing.T) {
	i := compactImage(t)
	f := newFixture(t, i.m, Options{})
	compact := layerKey(i.manifest.Layers[0].Digest, i.index.Layers[2].Digest)
	plain := layerKey(i.manifest.Layers[0].Digest, i.index.Layers[0].Digest)
	f.mount.err, f.mount.errOf = fs.ErrTOC, compact
	if _, err := f.prepare(i, 0); !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	_, held := f.layers.get(compact)
	if f.last.Kind != Lazy || f.last.Format != ztoc.Format09 || held || !f.mount.attached[plain] ||
		f.entries("soci", "layers") != 1 || f.entries("soci", "spans") != 1 {
		t.Errorf("decision %+v, attached %v, %d states, %d spans", f.last, f.mount.attached, f.entries("soci", "layers"), f.entries("soci", "spans"))
	}
	info := must(f.Stat(testContext(t), i.chains[0].String()))(t)
	if got := info.Labels[labelZTOC]; got != i.index.Layers[0].Digest.String() {
		t.Errorf("label says zTOC %s", got)
	}
}

// TestCompactState holds that a state on disk whose diffID, which is compared with that of the compact zTOC, is none
// makes its layer unavailable, and the start go on.
func TestCompactState(t *testing.T) {
	i := compactImage(t)
	f := newFixture(t, i.m, Options{})
	f.prepareAll(i)
	key := layerKey(i.manifest.Layers[0].Digest, i.index.Layers[2].Digest)
	f.restart(func() {
		st, _, err := f.layers.states.load(key)
		check(t, err)
		st.DiffID = "damaged"
		check(t, f.layers.states.save(st, nil))
	})
	if f.mount.attached[key] || f.mount.names() != 1 {
		t.Errorf("attached %v", f.mount.attached)
	}
	must(f.Prepare(testContext(t), "container", i.top()))(t) // repairs
	if !f.mount.attached[key] {
		t.Errorf("attached %v, want %s", f.mount.attached, key)
	}
}

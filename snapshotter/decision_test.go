// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
)

var errInjected = errors.New("injected")

// decisionCase is a way in which a Prepare of layer 0 of a good image is spoiled.
type decisionCase struct {
	name   string
	opts   Options
	spoil  func(t *testing.T, f *fixture, i *testImage)
	labels func(map[string]string)
	kind   Kind
	reason Reason
	err    string // part of the error that is reported
}

// failOn makes op on d fail.
func failOn(m *memory, op string, d digest.Digest) {
	m.setHook(func(_ context.Context, o string, got digest.Digest) error {
		if o == op && got == d {
			return errInjected
		}
		return nil
	})
}

// ztocDesc is a zTOC descriptor for layer.
func ztocDesc(d ocispec.Descriptor, layer digest.Digest) ocispec.Descriptor {
	d.MediaType = index.MediaTypeZTOC
	d.Annotations = map[string]string{
		index.AnnotationLayerDigest:    layer.String(),
		index.AnnotationLayerMediaType: ocispec.MediaTypeImageLayerGzip,
		index.AnnotationSpanSize:       "65536",
	}
	return d
}

func decisionCases() []decisionCase {
	noZTOC := func(t *testing.T, _ *fixture, i *testImage) {
		i.bindIndex(t, i.index.Layers[1])
	}
	return []decisionCase{
		{name: "good", kind: Lazy},
		{name: "explicit index", opts: Options{Discover: []index.Version{}}, kind: Lazy,
			spoil: func(t *testing.T, f *fixture, i *testImage) {
				_, desc, err := i.index.Marshal()
				check(t, err)
				f.explicit = desc.Digest
			}},
		{name: "no image reference", kind: Fallback, reason: ReasonLabels,
			labels: func(l map[string]string) { delete(l, snapshotters.TargetRefLabel) }},
		{name: "no manifest", kind: Fallback, reason: ReasonLabels,
			labels: func(l map[string]string) { delete(l, snapshotters.TargetManifestDigestLabel) }},
		{name: "bad layer digest", kind: Fallback, reason: ReasonLabels,
			labels: func(l map[string]string) { l[snapshotters.TargetLayerDigestLabel] = "sha256:zz" }},
		{name: "bad size", kind: Fallback, reason: ReasonLabels,
			labels: func(l map[string]string) { l[labelSize] = "-1" }},
		{name: "manifest missing", kind: Fallback, reason: ReasonLookup,
			spoil: func(_ *testing.T, _ *fixture, i *testImage) { failOn(i.m, "resolve", i.desc.Digest) }},
		{name: "config missing", kind: Fallback, reason: ReasonLookup,
			spoil: func(_ *testing.T, _ *fixture, i *testImage) { failOn(i.m, "fetch", i.manifest.Config.Digest) }},
		{name: "no index", kind: Fallback, reason: ReasonNoIndex,
			spoil: func(_ *testing.T, _ *fixture, i *testImage) {
				i.desc = i.m.putJSON(ocispec.MediaTypeImageManifest, i.manifest)
			}, err: "no SOCI index; v1 discovery is off, config.toml turns it on: [pull_modes.soci_v1] enable = true"},
		{name: "no index of either version", kind: Fallback, reason: ReasonNoIndex,
			opts: Options{Discover: []index.Version{index.V1, index.V2}},
			spoil: func(_ *testing.T, _ *fixture, i *testImage) {
				i.desc = i.m.putJSON(ocispec.MediaTypeImageManifest, i.manifest)
			}, err: ": no SOCI index\n"},
		{name: "index unusable", kind: Fallback, reason: ReasonNoIndex,
			opts: Options{Discover: []index.Version{index.V1, index.V2}},
			spoil: func(_ *testing.T, _ *fixture, i *testImage) {
				i.desc = i.m.putJSON(ocispec.MediaTypeImageManifest, i.manifest)
				i.m.putJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
					Config: ocispec.Descriptor{MediaType: index.MediaTypeV1}, Subject: &i.desc,
				})
			}, err: "1 referrers, none usable, the first: "},
		{name: "discovery off", kind: Fallback, reason: ReasonNoIndex, opts: Options{Discover: []index.Version{}},
			err: "[pull_modes.soci_v2] enable = true"},
		{name: "wrong chain ID", kind: Fallback, reason: ReasonNotInImage,
			labels: func(l map[string]string) { l[snapshots.LabelSnapshotRef] = digest.FromString("x").String() }},
		{name: "wrong diffID", kind: Fallback, reason: ReasonNotInImage,
			labels: func(l map[string]string) { l[snapshots.LabelSnapshotDiffID] = digest.FromString("x").String() }},
		{name: "wrong layer", kind: Fallback, reason: ReasonNotInImage,
			labels: func(l map[string]string) { l[snapshotters.TargetLayerDigestLabel] = digest.FromString("x").String() }},
		{name: "no zTOC", kind: Local, reason: ReasonNoZTOC, spoil: noZTOC},
		{name: "small", kind: Local, reason: ReasonSmall, opts: Options{MinLayerSize: 1 << 30}},
		{name: "zTOC missing", kind: Local, reason: ReasonZTOCFetch,
			spoil: func(_ *testing.T, _ *fixture, i *testImage) { failOn(i.m, "fetch", i.index.Layers[0].Digest) }},
		{name: "zTOC too large", kind: Local, reason: ReasonZTOCFetch,
			spoil: func(t *testing.T, _ *fixture, i *testImage) {
				d := i.index.Layers[0]
				d.Size = maxZTOCSize + 1
				i.bindIndex(t, d)
			}},
		{name: "policy in full", kind: Lazy, opts: Options{Policy: Policy{
			BoundIndex: true, MaxIndexSize: 1 << 20, MaxZTOCSize: 1 << 20, MaxFiles: 1000, MaxLayerSize: 1 << 24, MaxExpansion: 1000}}},
		{name: "index not bound", kind: Fallback, reason: ReasonUnbound,
			opts: Options{Discover: []index.Version{index.V1, index.V2}, Policy: Policy{BoundIndex: true}},
			spoil: func(_ *testing.T, _ *fixture, i *testImage) {
				i.desc = i.m.putJSON(ocispec.MediaTypeImageManifest, i.manifest)
			}, err: "does not name the SOCI index"},
		{name: "explicit index not bound", kind: Fallback, reason: ReasonUnbound, opts: Options{Policy: Policy{BoundIndex: true}},
			spoil: func(_ *testing.T, f *fixture, i *testImage) { f.explicit = i.desc.Digest }, err: "does not name the SOCI index"},
		{name: "index larger than the policy", kind: Fallback, reason: ReasonLimit, opts: Options{Policy: Policy{MaxIndexSize: 100}}},
		{name: "zTOC larger than the policy", kind: Local, reason: ReasonLimit, opts: Options{Policy: Policy{MaxZTOCSize: 100}}, err: "more than 100"},
		{name: "more files than the policy", kind: Local, reason: ReasonLimit, opts: Options{Policy: Policy{MaxFiles: 5}}, err: "files, more than 5"},
		{name: "layer larger than the policy", kind: Fallback, reason: ReasonLimit, opts: Options{Policy: Policy{MaxLayerSize: 512}}, err: "more than 512"},
		{name: "layer expands more than the policy", kind: Fallback, reason: ReasonLimit, opts: Options{Policy: Policy{MaxExpansion: 1}}, err: "more than 1 for each of"},
		{name: "zTOC of another size", kind: Local, reason: ReasonZTOCFetch,
			spoil: func(_ *testing.T, _ *fixture, i *testImage) {
				i.m.blobs[i.index.Layers[0].Digest] = []byte("swapped")
			}},
		{name: "zTOC garbage", kind: Local, reason: ReasonZTOCInvalid,
			spoil: func(t *testing.T, _ *fixture, i *testImage) {
				d := i.m.put(index.MediaTypeZTOC, []byte("garbage"))
				i.bindIndex(t, ztocDesc(d, i.manifest.Layers[0].Digest))
			}},
		{name: "zTOC of another layer", kind: Local, reason: ReasonZTOCMismatch,
			spoil: func(t *testing.T, _ *fixture, i *testImage) {
				i.bindIndex(t, ztocDesc(i.index.Layers[1], i.manifest.Layers[0].Digest))
			}},
		{name: "attach fails", kind: Local, reason: ReasonMount,
			spoil: func(_ *testing.T, f *fixture, _ *testImage) { f.mount.err = errInjected }},
		{name: "layer missing", kind: Fallback, reason: ReasonUnpack,
			spoil: func(t *testing.T, f *fixture, i *testImage) {
				noZTOC(t, f, i)
				failOn(i.m, "open", i.manifest.Layers[0].Digest)
			}},
		{name: "layer corrupt", kind: Fallback, reason: ReasonUnpack,
			spoil: func(t *testing.T, f *fixture, i *testImage) {
				noZTOC(t, f, i)
				i.m.blobs[i.manifest.Layers[0].Digest] = i.m.blobs[i.manifest.Layers[1].Digest]
			}},
		{name: "config lies about diffID", kind: Fallback, reason: ReasonUnpack,
			spoil: func(t *testing.T, f *fixture, i *testImage) {
				i.diffs[0] = digest.FromString("x")
				i.chains[0] = i.diffs[0]
				i.manifest.Config = i.m.putJSON(ocispec.MediaTypeImageConfig, ocispec.Image{
					RootFS: ocispec.RootFS{Type: "layers", DiffIDs: i.diffs},
				})
				noZTOC(t, f, i)
			}},
	}
}

// TestDecisions holds, for each reason, what containerd gets, what is reported
// and that nothing is left behind.
func TestDecisions(t *testing.T) {
	good := newImage(t, newMemory(), "registry.test/app:1", 1, 2).build(t, -1)
	for _, c := range decisionCases() {
		t.Run(c.name, func(t *testing.T) {
			i := good.clone()
			f := newFixture(t, i.m, c.opts)
			if c.spoil != nil {
				c.spoil(t, f, i)
			}
			labels := i.labels(0)
			if f.explicit != "" {
				labels[labelIndexDigest] = f.explicit.String()
			}
			if c.labels != nil {
				c.labels(labels)
			}
			mounts, err := f.Prepare(testContext(t), "key", "", snapshots.WithLabels(labels))
			if f.last.Kind != c.kind || f.last.Reason != c.reason {
				t.Fatalf("decision %q, reason %q (%v), want %q, %q", f.last.Kind, f.last.Reason, f.last.Err, c.kind, c.reason)
			}
			if got := fmt.Sprintln(f.last.Err); !strings.Contains(got, c.err) {
				t.Errorf("error %q, want %q", got, c.err)
			}
			if l := labels[snapshotters.TargetLayerDigestLabel]; f.last.Layer.String() != l && l != "sha256:zz" {
				t.Errorf("the decision is about layer %q, want %q", f.last.Layer, l)
			}
			checkOutcome(t, f, i, mounts != nil, err)
		})
	}
}

// checkOutcome holds the state after a decision about layer 0.
func checkOutcome(t *testing.T, f *fixture, i *testImage, mounts bool, err error) {
	t.Helper()
	ctx := testContext(t)
	lazy, fell := 0, f.last.Kind == Fallback
	if f.last.Kind == Lazy {
		lazy = 1
	}
	if n := f.mount.names(); n != lazy {
		t.Errorf("%d layers are attached, want %d", n, lazy)
	}
	if n := f.entries("soci", "layers"); n != lazy {
		t.Errorf("%d layers have state on disk, want %d", n, lazy)
	}
	if n := f.entries("snapshotter", "snapshots"); n != 1 {
		t.Errorf("%d snapshot directories, want 1", n)
	}
	if fell {
		if err != nil || !mounts {
			t.Errorf("Prepare: %v, want mounts", err)
		}
		info := must(f.Stat(ctx, "key"))(t)
		if info.Kind != snapshots.KindActive {
			t.Errorf("key is %v, want active", info.Kind)
		}
		return
	}
	if !errdefs.IsAlreadyExists(err) {
		t.Errorf("Prepare: %v, want already exists", err)
	}
	if _, err := f.Stat(ctx, "key"); !errdefs.IsNotFound(err) {
		t.Errorf("Stat of the active key: %v, want not found", err)
	}
	info := must(f.Stat(ctx, i.chains[0].String()))(t)
	if info.Kind != snapshots.KindCommitted || info.Labels[snapshots.LabelSnapshotRef] != i.chains[0].String() {
		t.Errorf("target is %+v", info)
	}
	usage := must(f.Usage(ctx, info.Name))(t)
	if _, ok := info.Labels[labelRemote]; ok != (lazy == 1) || usage.Size == 0 || lazy == 1 && usage.Inodes != 7 {
		t.Errorf("lazy is %d, but labels are %v and usage is %+v", lazy, info.Labels, usage)
	}
	if lazy == 1 && (info.Labels[labelNamespace] != "test" || info.Labels[labelHasIndex] != "true") {
		t.Errorf("labels are %v", info.Labels)
	}
	if lazy == 0 {
		if e := must(os.ReadDir(f.upper("1")))(t); len(e) == 0 {
			t.Error("local layer is empty")
		}
	}
}

// TestActive holds that a container's snapshot is containerd's own.
func TestActive(t *testing.T) {
	m := newMemory()
	f := newFixture(t, m, Options{})
	mounts := must(f.Prepare(testContext(t), "c", "", snapshots.WithLabels(map[string]string{"a": "b"})))(t)
	if len(mounts) != 1 || mounts[0].Type != "bind" || f.last.Kind != Active {
		t.Errorf("mounts %v, decision %q", mounts, f.last.Kind)
	}
	if _, err := f.Prepare(testContext(t), "c", ""); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second Prepare: %v", err)
	}
	if len(m.fetched()) != 0 {
		t.Errorf("a container's snapshot made requests: %v", m.fetched())
	}
}

// TestParseLabels holds that optional labels may be absent and bad ones are named.
func TestParseLabels(t *testing.T) {
	d := digest.FromString("x").String()
	good := map[string]string{
		snapshots.LabelSnapshotRef: "sha256:t", snapshotters.TargetRefLabel: "r",
		snapshotters.TargetManifestDigestLabel: d, snapshotters.TargetLayerDigestLabel: d,
	}
	if r, err := parseLabels(good); err != nil || r.Size != 0 || r.Index != "" || r.Image != "r" {
		t.Errorf("parseLabels: %+v, %v", r, err)
	}
	if _, err := parseLabels(nil); !errors.Is(err, errNotLayer) {
		t.Errorf("no labels: %v", err)
	}
	for _, key := range []string{labelSize, labelIndexDigest, snapshots.LabelSnapshotDiffID} {
		bad := map[string]string{key: "nonsense"}
		for k, v := range good {
			bad[k] = v
		}
		if _, err := parseLabels(bad); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("bad %s: %v", key, err)
		}
	}
}

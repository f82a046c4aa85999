// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const fuzzDigest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"

// FuzzState: a layer.json, whatever is in it, names no file but its layer's, and what is believed is sound.
func FuzzState(f *testing.F) {
	good, err := layerState{Version: 1, Layer: fuzzDigest, ZTOC: fuzzDigest, DiffID: fuzzDigest, Size: 5, Images: []string{"a/b:1"}, Slot: 7}.marshal()
	check(f, err)
	f.Add(good)
	f.Add(append(bytes.Clone(good[:bytes.LastIndex(good, []byte(sumField))]), '}'))
	f.Add([]byte(`{"version":1,"layer":"sha256:../../x","ztoc":"sha512:","size":-1,"images":null}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		s, err := unmarshalState(p)
		if err != nil || s.Layer.Validate() != nil || s.ZTOC.Validate() != nil || s.validate(s.key()) != nil {
			return
		}
		if key := s.key(); !isLayerKey(key) || !filepath.IsLocal(key) || strings.ContainsRune(key, '/') {
			t.Errorf("key %q", key)
		}
		if s.validate(s.key()+"0") == nil || s.Size <= 0 || len(s.Images) == 0 {
			t.Errorf("state %+v", s)
		}
		s.addImage("another")
		if len(s.Images) > maxImages || s.Images[0] != "another" {
			t.Errorf("images %q", s.Images)
		}
	})
}

// FuzzLabels: labels come from whoever speaks CRI. Digests that are taken from them are digests.
func FuzzLabels(f *testing.F) {
	f.Add("t", "registry.test/app:1", fuzzDigest, fuzzDigest, fuzzDigest, fuzzDigest, "10")
	f.Add("t", "r", "sha256:../..", "", "sha256:", "x", "-1")
	f.Fuzz(func(t *testing.T, target, image, manifest, layer, index, diffID, size string) {
		r, err := parseLabels(map[string]string{
			snapshots.LabelSnapshotRef: target, snapshotters.TargetRefLabel: image, snapshotters.TargetManifestDigestLabel: manifest,
			snapshotters.TargetLayerDigestLabel: layer, labelIndexDigest: index, snapshots.LabelSnapshotDiffID: diffID, labelSize: size,
		})
		if err != nil {
			return
		}
		for _, d := range []digest.Digest{r.Manifest, r.Layer} {
			if d.Validate() != nil {
				t.Errorf("digest %q", d)
			}
		}
		for _, d := range []digest.Digest{r.Index, r.DiffID} {
			if d != "" && d.Validate() != nil {
				t.Errorf("digest %q", d)
			}
		}
		if r.Target == "" || r.Image == "" || r.Size < 0 {
			t.Errorf("layer %+v", r)
		}
	})
}

// FuzzManifest: what is taken of an image's manifest and config has digests, sizes and a diffID for each layer.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"`+fuzzDigest+`","size":2},"layers":[{"digest":"`+fuzzDigest+`","size":9}]}`),
		[]byte(`{"rootfs":{"type":"layers","diff_ids":["`+fuzzDigest+`"]}}`))
	f.Add([]byte(`{"layers":[{"size":-1}]}`), []byte(`{"rootfs":{"diff_ids":[1,null]}}`))
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		m := newMemory()
		man, raw, err := fetchManifest(t.Context(), m, m.put("", manifest).Digest)
		if err != nil {
			return
		}
		img := &image{repo: must(m.repos(""))(t), layers: man.Layers}
		for _, l := range img.layers {
			if l.Digest.Validate() != nil || l.Size < 0 {
				t.Errorf("layer %+v", l)
			}
		}
		if string(raw) != string(manifest) || len(img.layers) > maxLayers {
			t.Errorf("%d layers", len(img.layers))
		}
		if len(config) == 0 || img.readConfig(t.Context(), m.put(ocispec.MediaTypeImageConfig, config)) != nil {
			return
		}
		if len(img.diffs) != len(img.layers) || len(img.chains) != len(img.layers) {
			t.Errorf("%d diffIDs, %d chain IDs, %d layers", len(img.diffs), len(img.chains), len(img.layers))
		}
	})
}

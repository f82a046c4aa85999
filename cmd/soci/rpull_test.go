// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// handled returns the children of an image manifest with n layers, as the
// wrapper leaves them.
func handled(t *testing.T, n int, want digest.Digest) (manifest ocispec.Descriptor, children []ocispec.Descriptor) {
	t.Helper()
	manifest = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("manifest")}
	all := []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromString("config"), Size: 3}}
	for i := range n {
		all = append(all, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString(fmt.Sprint(i)), Size: 1e9 + int64(i),
		})
	}
	h := layerLabels("example.com/app:1", want)(images.HandlerFunc(func(context.Context, ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		return all, nil
	}))
	children, err := h.Handle(t.Context(), manifest)
	if err != nil {
		t.Fatal(err)
	}
	return manifest, children
}

func TestLayerLabels(t *testing.T) {
	idx := digest.FromString("index")
	manifest, children := handled(t, 3, idx)
	if len(children[0].Annotations) != 0 {
		t.Errorf("config has annotations %v", children[0].Annotations)
	}
	for i, c := range children[1:] {
		want := map[string]string{
			"containerd.io/snapshot/cri.image-ref":            "example.com/app:1",
			"containerd.io/snapshot/cri.manifest-digest":      manifest.Digest.String(),
			"containerd.io/snapshot/cri.layer-digest":         c.Digest.String(),
			"containerd.io/snapshot/remote/soci.size":         fmt.Sprint(c.Size),
			"containerd.io/snapshot/remote/soci.index.digest": idx.String(),
			"containerd.io/snapshot/remote/image.layers.size": "1000000000,1000000001,1000000002"[i*11:],
			"containerd.io/snapshot/cri.image-layers":         "",
		}
		var rest []string
		for _, l := range children[1+i:] {
			rest = append(rest, l.Digest.String())
		}
		want["containerd.io/snapshot/cri.image-layers"] = strings.Join(rest, ",")
		for k, v := range want {
			if c.Annotations[k] != v {
				t.Errorf("layer %d: %s is %q, want %q", i, k, c.Annotations[k], v)
			}
		}
		if len(c.Annotations) != len(want) {
			t.Errorf("layer %d: annotations %v", i, c.Annotations)
		}
	}
}

// TestLayerLabelsBounded demands that of an image with many layers every label
// fits, and that the lists of digests and of sizes are equally long.
func TestLayerLabelsBounded(t *testing.T) {
	_, children := handled(t, 127, "")
	for i, c := range children[1:] {
		for k, v := range c.Annotations {
			if err := labels.Validate(k, v); err != nil {
				t.Errorf("layer %d: %v", i, err)
			}
		}
		digests := strings.Count(c.Annotations[snapshotters.TargetImageLayersLabel], ",")
		if sizes := strings.Count(c.Annotations[labelLayerSizes], ","); sizes != digests || digests == 0 && i < 126 {
			t.Errorf("layer %d: %d digests, %d sizes", i, digests+1, sizes+1)
		}
		if _, ok := c.Annotations[labelIndexDigest]; ok {
			t.Errorf("layer %d names an index that nobody asked for", i)
		}
	}
}

// TestLayerLabelsOfIndex demands that only the children of manifests are labelled.
func TestLayerLabelsOfIndex(t *testing.T) {
	list := []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest}}
	h := layerLabels("r", "")(images.HandlerFunc(func(context.Context, ocispec.Descriptor) ([]ocispec.Descriptor, error) { return list, nil }))
	if _, err := h.Handle(t.Context(), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex}); err != nil {
		t.Fatal(err)
	}
	if list[0].Annotations != nil {
		t.Errorf("annotations %v", list[0].Annotations)
	}
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/vbauerster/mpb/v8"
)

// TestWatcher follows one layer of the pull from its first bytes to its end, and nothing else.
func TestWatcher(t *testing.T) {
	layer := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("layer"), Size: 100}
	config := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromString("config"), Size: 10}
	var w watcher
	for _, d := range []ocispec.Descriptor{layer, config} {
		if _, err := w.handler()(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	p := &progress{out: &out, pool: mpb.New(mpb.WithOutput(&out)), bars: make(map[string]*mpb.Bar)}
	at := make(map[string]int64)
	name := "layer-" + layer.Digest.String()
	for _, c := range []struct {
		list []content.Status
		want int64
	}{
		{nil, -1},
		{[]content.Status{{Ref: "layer-" + digest.FromString("another pull's").String(), Offset: 5}, {Ref: "config-" + config.Digest.String(), Offset: 5}}, -1},
		{[]content.Status{{Ref: name, Offset: 30, Total: 100}}, 30},
		{[]content.Status{{Ref: name, Offset: 70, Total: 100}}, 70},
		{nil, 100},
		{nil, 100},
	} {
		w.step(p, c.list, at)
		got := int64(-1)
		if bar := p.bars[shortDigest(layer.Digest)]; bar != nil {
			got = bar.Current()
		}
		if got != c.want || len(p.bars) > 1 {
			t.Errorf("%v: bar at %d of %d bars, want %d", c.list, got, len(p.bars), c.want)
		}
	}
	p.done()
}

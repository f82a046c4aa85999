// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/seekoci/seekoci/ztoc"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// goldenDir is the directory of the incumbent's own output.
func goldenDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("SEEKOCI_GOLDEN")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "golden")
	}
	if _, err := os.Stat(filepath.Join(dir, "README.md")); err != nil {
		t.Skipf("golden vectors are not here (set SEEKOCI_GOLDEN): %v", err)
	}
	return dir
}

func mustRead(t testing.TB, elem ...string) []byte {
	t.Helper()
	p, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestGolden compares with what the incumbent wrote for the same layers.
func TestGolden(t *testing.T) {
	dir := goldenDir(t)
	for _, tt := range []struct {
		name string
		size int64
	}{{"v2-span-65536", 65536}, {"v2-span-1048576", 1048576}} {
		for _, z := range goldenZTOCs(t, filepath.Join(dir, tt.name)) {
			layer := mustRead(t, dir, "image", "blobs", "sha256", z.layer)
			want := mustRead(t, dir, tt.name, "blobs", "sha256", z.ztoc)
			t.Run(tt.name+"/"+z.layer[:12], func(t *testing.T) {
				got := mustBuild(t, layer, ztoc.BuildOptions{SpanSize: tt.size})
				if p := mustMarshal(t, got); !bytes.Equal(p, want) {
					t.Errorf("zTOC differs: %d bytes, want %d", len(p), len(want))
				}
				if p := mustMarshal(t, mustUnmarshal(t, want)); !bytes.Equal(p, want) {
					t.Error("unmarshal and marshal do not give the same bytes")
				}
				checkSpans(t, mustUnmarshal(t, want), layer, mustGunzip(t, layer))
			})
		}
	}
}

// goldenPair is a layer and its zTOC, by the hex of their digests.
type goldenPair struct{ layer, ztoc string }

// goldenZTOCs finds the zTOCs in an image layout: the layers of the one manifest
// whose config is a SOCI index.
func goldenZTOCs(t *testing.T, layout string) []goldenPair {
	t.Helper()
	blobs, err := os.ReadDir(filepath.Join(layout, "blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	var pairs []goldenPair
	for _, b := range blobs {
		var m ocispec.Manifest
		if json.Unmarshal(mustRead(t, layout, "blobs", "sha256", b.Name()), &m) != nil {
			continue
		}
		for _, l := range m.Layers {
			if d, ok := l.Annotations["com.amazon.soci.image-layer-digest"]; ok {
				pairs = append(pairs, goldenPair{d[len("sha256:"):], l.Digest.Encoded()})
			}
		}
	}
	if len(pairs) != 4 {
		t.Fatalf("%d zTOCs in %s, want 4", len(pairs), layout)
	}
	return pairs
}

// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// goldenDir is where the incumbent's image, index and zTOCs are.
func goldenDir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("SEEKOCI_GOLDEN")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "golden")
	}
	if _, err := os.Stat(filepath.Join(dir, "image", "index.json")); err != nil {
		t.Skipf("no golden vectors: %v; set SEEKOCI_GOLDEN", err)
	}
	return dir
}

// loadGolden returns the image of an OCI layout that the incumbent converted. The
// layout lacks what is in the layout image.
func loadGolden(t testing.TB, layout string) *testImage {
	t.Helper()
	dir := goldenDir(t)
	i := &testImage{m: newMemory()}
	for _, l := range []string{"image", layout} {
		blobs := filepath.Join(dir, l, "blobs", "sha256")
		for _, e := range must(os.ReadDir(blobs))(t) {
			i.m.put("", must(os.ReadFile(filepath.Join(blobs, e.Name())))(t))
		}
	}
	var list ocispec.Index
	check(t, json.Unmarshal(must(os.ReadFile(filepath.Join(dir, layout, "index.json")))(t), &list))
	check(t, json.Unmarshal(i.m.blobs[list.Manifests[0].Digest], &list))
	i.desc = list.Manifests[0]
	check(t, json.Unmarshal(i.m.blobs[i.desc.Digest], &i.manifest))
	var config ocispec.Image
	check(t, json.Unmarshal(i.m.blobs[i.manifest.Config.Digest], &config))
	i.diffs = config.RootFS.DiffIDs
	i.chains = identity.ChainIDs(append([]digest.Digest(nil), i.diffs...))
	for _, l := range i.manifest.Layers {
		z := must(gzip.NewReader(bytes.NewReader(i.m.blobs[l.Digest])))(t)
		i.tars = append(i.tars, must(io.ReadAll(z))(t))
	}
	i.index = must(index.Unmarshal(i.m.blobs[digest.Digest(i.desc.Annotations[index.AnnotationIndexDigest])]))(t)
	return i
}

// TestGolden serves an image with the index and the zTOCs that the incumbent made of it.
func TestGolden(t *testing.T) {
	needFUSE(t)
	for _, layout := range []string{"v2-span-65536", "v2-span-1048576"} {
		t.Run(layout, func(t *testing.T) {
			i := loadGolden(t, layout)
			reg := registrytest.New(registrytest.Options{})
			defer reg.Close()
			i.push(t, reg, "library/golden")
			s := newReal(t, t.TempDir())
			for n := range i.chains {
				_, err := s.Prepare(testContext(t), fmt.Sprint("extract-", n), i.parent(n), snapshots.WithLabels(i.labels(n)))
				if !errdefs.IsAlreadyExists(err) {
					t.Fatalf("prepare layer %d: %v", n, err)
				}
				if info := must(s.Stat(testContext(t), i.chains[n].String()))(t); !isRemote(info.Labels) {
					t.Errorf("layer %d is not lazy", n)
				}
			}
			checkTree(t, s, "container", i.top(), tree(t, unpackAll(t, i)))
		})
	}
}

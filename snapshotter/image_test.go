// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// testImage is an image in a memory, with or without an index.
type testImage struct {
	m        *memory
	name     string
	manifest ocispec.Manifest // without the annotation
	desc     ocispec.Descriptor
	tars     [][]byte
	diffs    []digest.Digest
	chains   []digest.Digest
	index    *index.Index
}

// newImage makes an image of layers with so many files each. The layers differ by seed.
func newImage(t testing.TB, m *memory, name string, seeds ...uint64) *testImage {
	t.Helper()
	var files [][]ztoctest.File
	for _, seed := range seeds {
		files = append(files, testFiles(seed))
	}
	return newImageOf(t, m, name, files...)
}

// newImageOf makes an image of layers with these files.
func newImageOf(t testing.TB, m *memory, name string, files ...[]ztoctest.File) *testImage {
	t.Helper()
	i := &testImage{m: m, name: name}
	var layers []ocispec.Descriptor
	for _, f := range files {
		tar := must(ztoctest.Tar(f, ztoctest.TarOptions{}))(t)
		var b bytes.Buffer
		z := must(gzip.NewWriterLevel(&b, gzip.BestSpeed))(t)
		must(z.Write(tar))(t)
		check(t, z.Close())
		i.tars = append(i.tars, tar)
		i.diffs = append(i.diffs, digest.FromBytes(tar))
		layers = append(layers, m.put(ocispec.MediaTypeImageLayerGzip, b.Bytes()))
	}
	i.chains = identity.ChainIDs(append([]digest.Digest(nil), i.diffs...))
	config := m.putJSON(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: i.diffs},
	})
	i.manifest = manifest(config, layers)
	i.desc = m.putJSON(ocispec.MediaTypeImageManifest, i.manifest)
	return i
}

// testFiles returns the files of a layer, with every directory: those that the
// tar does not have get the time of unpacking from containerd.
func testFiles(seed uint64) []ztoctest.File {
	var dirs []ztoctest.File
	have := map[string]bool{".": true}
	all := ztoctest.Files(seed, 20)
	for _, f := range all {
		have[path.Clean(f.Name)] = true
	}
	for _, f := range all {
		for d := path.Dir(path.Clean(f.Name)); !have[d]; d = path.Dir(d) {
			have[d] = true
			dirs = append(dirs, ztoctest.File{Header: tar.Header{
				Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755, ModTime: time.Unix(1600000000, 0),
			}})
		}
	}
	return append(dirs, all...)
}

// build indexes the layers of at least minSize bytes and binds the index to the image.
func (i *testImage) build(t testing.TB, minSize int64) *testImage {
	t.Helper()
	return i.buildWith(t, index.BuildOptions{MinLayerSize: minSize})
}

// buildWith indexes the layers with opts and binds the index to the image.
func (i *testImage) buildWith(t testing.TB, opts index.BuildOptions) *testImage {
	t.Helper()
	opts.ZTOC.SpanSize = 64 << 10
	x, desc, err := index.Build(t.Context(), i.m, i.desc, index.V2, opts)
	check(t, err)
	i.index = x
	i.bind(desc)
	return i
}

// clone returns an image that can be spoiled without i being so.
func (i *testImage) clone() *testImage {
	c := *i
	c.m = newMemory()
	maps.Copy(c.m.blobs, i.m.blobs)
	maps.Copy(c.m.types, i.m.types)
	c.diffs, c.chains = slices.Clone(i.diffs), slices.Clone(i.chains)
	return &c
}

// bind makes desc the image's index.
func (i *testImage) bind(desc ocispec.Descriptor) {
	m := i.manifest
	m.Annotations = map[string]string{index.AnnotationIndexDigest: desc.Digest.String()}
	i.desc = i.m.putJSON(ocispec.MediaTypeImageManifest, m)
}

// bindIndex makes an index of these zTOCs the image's.
func (i *testImage) bindIndex(t testing.TB, ztocs ...ocispec.Descriptor) {
	t.Helper()
	x := index.Index{Version: index.V2, Layers: ztocs, BuildTool: "test"}
	p, desc, err := x.Marshal()
	check(t, err)
	i.m.put(desc.MediaType, p)
	i.index = &x
	i.bind(desc)
}

// labels are those with which containerd prepares layer n.
func (i *testImage) labels(n int) map[string]string {
	return map[string]string{
		snapshots.LabelSnapshotRef:             i.chains[n].String(),
		snapshotters.TargetRefLabel:            i.name,
		snapshotters.TargetManifestDigestLabel: i.desc.Digest.String(),
		snapshotters.TargetLayerDigestLabel:    i.manifest.Layers[n].Digest.String(),
		snapshots.LabelSnapshotDiffID:          i.diffs[n].String(),
	}
}

// parent is the name of the snapshot below layer n.
func (i *testImage) parent(n int) string {
	if n == 0 {
		return ""
	}
	return i.chains[n-1].String()
}

// fixture is a snapshotter under test that can be stopped and started again.
type fixture struct {
	*Snapshotter
	t     testing.TB
	opts  Options
	ports func() ports
	mount *fakeMount // nil if it is the real one
	last  Decision

	explicit digest.Digest // index to name in labels; "" means none
}

func testContext(t testing.TB) context.Context {
	return namespaces.WithNamespace(t.Context(), "test")
}

// newFixture starts a snapshotter on a fresh root with a fake mount.
func newFixture(t testing.TB, m *memory, opts Options) *fixture {
	t.Helper()
	needRoot(t)
	opts.Root = quickDir(t)
	opts.Log = testLog(t)
	// Tests of what is asked for are not to see what is fetched in the background.
	opts.Background.Disable = opts.OnCompletion == nil
	f := &fixture{t: t}
	var mu sync.Mutex
	opts.OnDecision = func(d Decision) {
		mu.Lock()
		defer mu.Unlock()
		f.last = d
	}
	f.opts = must(opts.withDefaults())(t)
	f.ports = func() ports { return fakePorts(t, opts.Root, m) }
	f.start()
	t.Cleanup(func() { f.Close() })
	return f
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts overlayfs")
	}
}

func (f *fixture) start() {
	f.t.Helper()
	p := f.ports()
	f.mount, _ = p.mount.(*fakeMount)
	ms := must(openMetadata(f.t.Context(), f.opts.Root, dbLockTimeout))(f.t)
	f.Snapshotter = must(newSnapshotter(f.t.Context(), f.opts, ms, p))(f.t)
}

// restart stops and starts the snapshotter, with meddle in between.
func (f *fixture) restart(meddle func()) {
	f.t.Helper()
	check(f.t, f.Close())
	meddle()
	f.start()
}

// prepare prepares layer n of i as containerd does.
func (f *fixture) prepare(i *testImage, n int) ([]mount.Mount, error) {
	key := "extract-" + i.name + " " + i.chains[n].String()
	return f.Prepare(testContext(f.t), key, i.parent(n), snapshots.WithLabels(i.labels(n)))
}

// entries returns the number of directory entries below the root.
func (f *fixture) entries(dir ...string) int {
	f.t.Helper()
	e, err := os.ReadDir(filepath.Join(append([]string{f.opts.Root}, dir...)...))
	if err != nil && !os.IsNotExist(err) {
		f.t.Fatal(err)
	}
	return len(e)
}

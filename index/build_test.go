// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/index/indextest"
	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

var amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}

// tarOf returns an archive of regular files with random content of size bytes each.
func tarOf(t testing.TB, seed uint64, size int, names ...string) []byte {
	t.Helper()
	var files []ztoctest.File
	for i, n := range names {
		files = append(files, ztoctest.Big(seed+uint64(i), n, size))
	}
	return must(ztoctest.Tar(files, ztoctest.TarOptions{}))(t)
}

func gz(t testing.TB, p []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// layer returns a small gzip layer.
func layer(t testing.TB, seed uint64) indextest.Layer {
	return indextest.Layer{Content: gz(t, tarOf(t, seed, 40_000, fmt.Sprintf("file%d", seed), "etc/config"))}
}

// all are options that leave no layer out and make several spans.
func all() index.BuildOptions {
	return index.BuildOptions{MinLayerSize: -1, ZTOC: ztoc.BuildOptions{SpanSize: 16 << 10}}
}

func mediaTypes(list []ocispec.Descriptor) (types []string) {
	for _, d := range list {
		types = append(types, d.MediaType)
	}
	return types
}

func TestBuild(t *testing.T) {
	for _, v := range []index.Version{index.V1, index.V2} {
		s := new(indextest.Store)
		layers := []indextest.Layer{layer(t, 1), layer(t, 2), layer(t, 1), layer(t, 3)}
		manifest := s.Image(amd64, layers...)
		x, desc, err := index.Build(t.Context(), s, manifest, v, all())
		if err != nil {
			t.Fatal(err)
		}
		if len(x.Layers) != len(layers) {
			t.Fatalf("v%d: %d layers", v, len(x.Layers))
		}
		for i, l := range layers {
			d := x.Layers[i]
			want := map[string]string{
				index.AnnotationLayerDigest:    digest.FromBytes(l.Content).String(),
				index.AnnotationLayerMediaType: ocispec.MediaTypeImageLayerGzip,
				index.AnnotationSpanSize:       "16384",
			}
			if fmt.Sprint(d.Annotations) != fmt.Sprint(want) {
				t.Errorf("layer %d: annotations %v, want %v", i, d.Annotations, want)
			}
			z := must(index.ReadZTOC(t.Context(), s, d))(t)
			if z.ZInfo().CompressedSize != int64(len(l.Content)) || z.Len() != 2 {
				t.Errorf("layer %d: zTOC of %d bytes, %d entries", i, z.ZInfo().CompressedSize, z.Len())
			}
		}
		if (x.Subject != nil) != (v == index.V1) || v == index.V1 && (x.Subject.Digest != manifest.Digest || x.Subject.Platform != nil) {
			t.Errorf("v%d: subject %v", v, x.Subject)
		}
		// Three different zTOCs, the config, the index last.
		want := []string{index.MediaTypeZTOC, index.MediaTypeZTOC, index.MediaTypeZTOC, v.ArtifactType(), ocispec.MediaTypeImageManifest}
		if got := mediaTypes(s.Pushed()); !slices.Equal(got, want) {
			t.Errorf("v%d: pushed %v", v, got)
		}
		y, _, err := index.Read(t.Context(), s, desc)
		if err != nil || len(y.Layers) != len(x.Layers) {
			t.Errorf("v%d: read back %v, %v", v, y, err)
		}
	}
}

// TestBuildSkips holds the rules for layers without zTOC, the incumbent's words and the order of events.
func TestBuildSkips(t *testing.T) {
	plain := tarOf(t, 7, 50_000, "a", "b")
	zipped := gz(t, plain)
	zstd := append([]byte{0x28, 0xb5, 0x2f, 0xfd}, make([]byte, len(zipped))...)
	const unsupported = "is compressed in an unsupported format. expect: [tar, gzip, unknown] but got "
	small := fmt.Sprintf("size 10 is less than min-layer-size %d", len(zipped))
	cases := []struct {
		mediaType string
		content   []byte
		skip      string
	}{
		{"application/vnd.oci.image.layer.v1.tar+gzip", zipped, ""},
		{"application/vnd.oci.image.layer.v1.tar+gzip", []byte("0123456789"), small},
		{"application/vnd.docker.image.rootfs.diff.tar.gzip", zipped, ""},
		{"application/vnd.oci.image.layer.v1.tar", plain, ""},
		{"application/vnd.docker.image.rootfs.diff.tar", plain, ""},
		{"application/vnd.docker.image.rootfs.diff.tar", zipped, ""},
		{"application/vnd.docker.image.rootfs.diff.tar", zstd, unsupported + `"zstd"`},
		{"application/vnd.oci.image.layer.v1.tar+zstd", zstd, unsupported + `"zstd"`},
		{"application/vnd.oci.image.layer.v1.tar+gzip+encrypted", zipped, unsupported + `"encrypted"`},
		{"application/vnd.oci.image.layer.nondistributable.v1.tar", plain, unsupported + `""`},
		{"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", zipped, ""},
		{"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", zipped, ""},
		{"application/wasm", zipped, unsupported + `"application/wasm"`},
	}
	s := new(indextest.Store)
	var layers []indextest.Layer
	var want []string
	for _, c := range cases {
		layers = append(layers, indextest.Layer{MediaType: c.mediaType, Content: c.content})
		d := digest.FromBytes(c.content)
		if c.skip != "" {
			want = append(want, fmt.Sprintf("ztoc skipped - layer %s (%s) %s", d, c.mediaType, c.skip))
		} else {
			want = append(want, fmt.Sprintf("layer %s -> ztoc ", d))
		}
	}
	opts := all()
	opts.MinLayerSize = int64(len(zipped))
	var got []string
	opts.OnLayer = func(r index.LayerResult) {
		line, _, _ := strings.Cut(r.String(), "ztoc sha256:")
		if r.Skip == "" {
			line += "ztoc "
		}
		got = append(got, line)
	}
	x, _, err := index.Build(t.Context(), s, s.Image(amd64, layers...), index.V1, opts)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("events:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(x.Layers) != 7 {
		t.Errorf("%d zTOCs, want 7", len(x.Layers))
	}
}

func TestBuildNoZTOCs(t *testing.T) {
	s := new(indextest.Store)
	_, _, err := index.Build(t.Context(), s, s.Image(amd64, layer(t, 1)), index.V1, index.BuildOptions{})
	if !errors.Is(err, index.ErrNoZTOCs) || err.Error() != "no ztocs created, all layers either skipped or produced errors" {
		t.Errorf("error %v", err)
	}
	if p := s.Pushed(); len(p) != 0 {
		t.Errorf("pushed %v", p)
	}
}

// TestBuildNothingPushed holds that a build that fails leaves the store as it was, and says what is wrong with what.
func TestBuildNothingPushed(t *testing.T) {
	gone := errors.New("connection reset")
	good, bad := layer(t, 1), layer(t, 2)
	dgst := digest.FromBytes(bad.Content)
	badTar := tarOf(t, 2, 10, "x")
	copy(badTar[100:], "yyyyyyyy") // the mode: not octal
	notTar := indextest.Layer{Content: gz(t, badTar)}
	for name, c := range map[string]struct {
		spoil func(*indextest.Store)
		layer indextest.Layer
		want  error
	}{
		"truncated": {func(s *indextest.Store) { s.Replace(dgst, bad.Content[:len(bad.Content)/2]) }, bad, index.ErrDigest},
		"longer":    {func(s *indextest.Store) { s.Replace(dgst, append(bad.Content, 0)) }, bad, index.ErrDigest},
		"flipped": {func(s *indextest.Store) {
			p := bytes.Clone(bad.Content)
			p[len(p)/2] ^= 1
			s.Replace(dgst, p)
		}, bad, index.ErrDigest},
		"another": {func(s *indextest.Store) { s.Replace(dgst, good.Content) }, bad, index.ErrDigest},
		"missing": {func(s *indextest.Store) { s.Delete(dgst) }, bad, errdefs.ErrNotFound},
		"fetch": {func(s *indextest.Store) {
			s.OnFetch = func(d ocispec.Descriptor) error {
				if d.Digest == dgst {
					return gone
				}
				return nil
			}
		}, bad, gone},
		"read": {func(s *indextest.Store) {
			s.WrapReader = func(d ocispec.Descriptor, r io.ReadCloser) io.ReadCloser {
				if d.Digest == dgst {
					return io.NopCloser(io.MultiReader(io.LimitReader(r, 100), failing{gone}))
				}
				return r
			}
		}, bad, gone},
		"not gzip": {func(*indextest.Store) {}, indextest.Layer{Content: bytes.Repeat([]byte("x"), 5000)}, nil},
		"not tar":  {func(*indextest.Store) {}, notTar, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := new(indextest.Store)
			manifest := s.Image(amd64, good, c.layer)
			c.spoil(s)
			_, _, err := index.Build(t.Context(), s, manifest, index.V1, all())
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			if d := digest.FromBytes(c.layer.Content); !strings.Contains(err.Error(), d.String()) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error does not name layer %s in one line: %v", d, err)
			}
			if p := s.Pushed(); len(p) != 0 {
				t.Errorf("pushed %v", p)
			}
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestBuildPushFails holds that the index is not pushed when anything before it was not.
func TestBuildPushFails(t *testing.T) {
	full := errors.New("no space left")
	for fail := range 3 {
		s := new(indextest.Store)
		n := 0
		s.OnPush = func(ocispec.Descriptor) error {
			if n++; n > fail {
				return full
			}
			return nil
		}
		_, _, err := index.Build(t.Context(), s, s.Image(amd64, layer(t, 1)), index.V1, all())
		if !errors.Is(err, full) {
			t.Errorf("push %d: error %v", fail, err)
		}
		if slices.Contains(mediaTypes(s.Pushed()), ocispec.MediaTypeImageManifest) {
			t.Errorf("push %d fails, but the index is there", fail)
		}
	}
}

func TestBuildCancelled(t *testing.T) {
	s := new(indextest.Store)
	manifest := s.Image(amd64, layer(t, 1), layer(t, 2), layer(t, 3))
	ctx, cancel := context.WithCancel(t.Context())
	opts := all()
	opts.Workers = 1
	opts.OnProgress = func(ocispec.Descriptor, int64) { cancel() }
	_, _, err := index.Build(ctx, s, manifest, index.V1, opts)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if p := s.Pushed(); len(p) != 0 {
		t.Errorf("pushed %v", p)
	}
}

// TestBuildWorkers holds that no more layers than workers are open at once, and that all workers work.
func TestBuildWorkers(t *testing.T) {
	for _, workers := range []int{1, 2, 3} {
		s := new(indextest.Store)
		var layers []indextest.Layer
		for i := range 8 {
			layers = append(layers, layer(t, uint64(i+1)))
		}
		manifest := s.Image(amd64, layers...)
		g := &gauge{meet: workers, together: make(chan struct{})}
		s.WrapReader = func(d ocispec.Descriptor, r io.ReadCloser) io.ReadCloser {
			if d.MediaType != ocispec.MediaTypeImageLayerGzip {
				return r
			}
			return g.open(r)
		}
		opts := all()
		opts.Workers = workers
		var order []digest.Digest
		opts.OnLayer = func(r index.LayerResult) { order = append(order, r.Layer.Digest) }
		var mu sync.Mutex
		read := make(map[digest.Digest]int64)
		opts.OnProgress = func(l ocispec.Descriptor, n int64) {
			mu.Lock()
			defer mu.Unlock()
			read[l.Digest] += n
		}
		if _, _, err := index.Build(t.Context(), s, manifest, index.V1, opts); err != nil {
			t.Fatal(err)
		}
		if g.max != workers || g.opened != len(layers) || g.now != 0 {
			t.Errorf("%d workers: %d layers open at once, %d opened, %d still open", workers, g.max, g.opened, g.now)
		}
		for i, l := range layers {
			if d := digest.FromBytes(l.Content); order[i] != d || read[d] != int64(len(l.Content)) {
				t.Errorf("%d workers: event %d is of %s, want %s; progress of %d bytes of %d", workers, i, order[i], d, read[d], len(l.Content))
			}
		}
	}
}

// gauge counts open readers. The first reads wait until meet readers are open together.
type gauge struct {
	meet     int
	together chan struct{}

	mu               sync.Mutex
	now, max, opened int
}

func (g *gauge) open(r io.ReadCloser) io.ReadCloser {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now++
	g.opened++
	g.max = max(g.max, g.now)
	if g.opened == g.meet {
		close(g.together)
	}
	return &gauged{ReadCloser: r, g: g}
}

type gauged struct {
	io.ReadCloser
	g *gauge
}

func (r *gauged) Read(p []byte) (int, error) {
	<-r.g.together
	return r.ReadCloser.Read(p)
}

func (r *gauged) Close() error {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	r.g.now--
	return r.ReadCloser.Close()
}

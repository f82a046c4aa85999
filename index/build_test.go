// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"archive/tar"
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
			if z.ZInfo.CompressedSize != int64(len(l.Content)) || len(z.TOC) != 2 {
				t.Errorf("layer %d: zTOC of %d bytes, %d entries", i, z.ZInfo.CompressedSize, len(z.TOC))
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
		{"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", zipped, "is not distributable"},
		{"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", zipped, "is not distributable"},
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
	if len(x.Layers) != 5 {
		t.Errorf("%d zTOCs, want 5", len(x.Layers))
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

// TestBuildReuse holds that a zTOC is reused exactly if it is there, whole, and of this layer and span size.
func TestBuildReuse(t *testing.T) {
	s := new(indextest.Store)
	manifest := s.Image(amd64, layer(t, 1))
	x, desc, err := index.Build(t.Context(), s, manifest, index.V1, all())
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := index.Build(t.Context(), s, s.Image(amd64, layer(t, 2)), index.V1, all())
	if err != nil {
		t.Fatal(err)
	}
	opts4M := index.BuildOptions{MinLayerSize: -1}
	coarse, _, err := index.Build(t.Context(), s, manifest, index.V1, opts4M)
	if err != nil {
		t.Fatal(err)
	}
	z := x.Layers[0]
	gone := ocispec.Descriptor{Digest: dgstA, Size: 1}
	damaged := s.Add(index.MediaTypeZTOC, []byte("damaged"))
	s.Replace(damaged.Digest, []byte("DAMAGED"))
	notZTOC := s.Add(index.MediaTypeZTOC, []byte("not a zTOC"))
	for name, c := range map[string]struct {
		z      ocispec.Descriptor
		reused bool
	}{
		"good": {ocispec.Descriptor{Digest: z.Digest, Size: z.Size}, true}, "gone": {gone, false},
		"damaged": {damaged, false}, "no zTOC": {notZTOC, false},
		"of another layer": {other.Layers[0], false}, "of another span size": {coarse.Layers[0], false},
	} {
		opts := all()
		opts.Reuse = func(l digest.Digest, spanSize int64) (ocispec.Descriptor, bool) {
			if spanSize != 16<<10 {
				t.Errorf("asked for span size %d", spanSize)
			}
			return c.z, true
		}
		read := false
		s.OnFetch = func(d ocispec.Descriptor) error {
			read = read || d.MediaType == ocispec.MediaTypeImageLayerGzip
			return nil
		}
		opts.OnLayer = func(r index.LayerResult) {
			if r.Reused != c.reused || strings.HasSuffix(r.String(), " (already exists)") != c.reused {
				t.Errorf("%s: %s", name, r)
			}
		}
		_, again, err := index.Build(t.Context(), s, manifest, index.V1, opts)
		if err != nil || again.Digest != desc.Digest {
			t.Errorf("%s: index %v, %v; want %s", name, again.Digest, err, desc.Digest)
		}
		if read == c.reused {
			t.Errorf("%s: layer read %t", name, read)
		}
	}
}

func TestBuildDisableXattrs(t *testing.T) {
	header := func(name string, pax map[string]string) ztoctest.File {
		return ztoctest.File{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, PAXRecords: pax}}
	}
	for name, c := range map[string]struct {
		file ztoctest.File
		want bool
	}{
		"none":   {header("a", nil), true},
		"xattr":  {header("a", map[string]string{"SCHILY.xattr.user.x": "y"}), false},
		"opaque": {header("d/.wh..wh..opq", nil), false},
		"other":  {header("a", map[string]string{"mtime": "1.5"}), true},
	} {
		content := gz(t, must(ztoctest.Tar([]ztoctest.File{c.file}, ztoctest.TarOptions{}))(t))
		for _, on := range []bool{true, false} {
			s := new(indextest.Store)
			opts := all()
			opts.DisableXattrs = on
			x, _, err := index.Build(t.Context(), s, s.Image(amd64, indextest.Layer{Content: content}), index.V1, opts)
			if err != nil {
				t.Fatal(err)
			}
			if got := index.XattrsDisabled(x.Layers[0]); got != (on && c.want) {
				t.Errorf("%s, option %t: annotations %v", name, on, x.Layers[0].Annotations)
			}
		}
	}
}

func TestBuildPrefetch(t *testing.T) {
	s := new(indextest.Store)
	// lib is in both layers: the upper one hides the lower.
	lower := indextest.Layer{Content: gz(t, tarOf(t, 1, 100_000, "./bin/sh", "usr/lib/lib.so", "etc/a", "etc/b"))}
	upper := indextest.Layer{Content: gz(t, tarOf(t, 9, 100_000, "usr/lib/lib.so", "opt/x"))}
	manifest := s.Image(amd64, lower, upper)
	opts := all()
	opts.Prefetch = []string{"/bin/sh", "usr//lib/lib.so", "etc/b", "no/such", "", "/", "etc/b"}
	var lines []string
	opts.OnPrefetch = func(r index.PrefetchResult) { lines = append(lines, r.String()) }
	x, _, err := index.Build(t.Context(), s, manifest, index.V2, opts)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := mediaTypes(x.Layers), []string{index.MediaTypeZTOC, index.MediaTypeZTOC, index.MediaTypePrefetch, index.MediaTypePrefetch}; !slices.Equal(got, want) {
		t.Fatalf("layers %v", got)
	}
	want := []string{`prefetch file "no/such" is not a file of any layer with a ztoc`}
	for i, c := range []struct {
		layer indextest.Layer
		files []string
	}{{lower, []string{"./bin/sh", "etc/b"}}, {upper, []string{"usr/lib/lib.so"}}} {
		dgst := digest.FromBytes(c.layer.Content)
		d, ok := x.Prefetch(dgst)
		if !ok || d.Digest != x.Layers[2+i].Digest || len(d.Annotations) != 1 {
			t.Fatalf("prefetch artifact of layer %d: %v, %t", i, d, ok)
		}
		want = append(want, fmt.Sprintf("Created prefetch artifact for layer %s: %s", dgst, d.Digest))
		zd, _ := x.ZTOC(dgst)
		z := must(index.ReadZTOC(t.Context(), s, zd))(t)
		p := must(index.ReadPrefetch(t.Context(), s, d))(t)
		checkPrefetch(t, z, p, c.files)
	}
	if !slices.Equal(lines, want) {
		t.Errorf("events:\n%s\nwant:\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

// checkPrefetch holds that p is the spans of files and, at most, the one behind each.
func checkPrefetch(t *testing.T, z *ztoc.ZTOC, p *index.Prefetch, files []string) {
	t.Helper()
	in := make(map[int]bool)
	for _, r := range p.Spans {
		for i := r.Start; i < r.End; i++ {
			in[i] = true
		}
	}
	wanted := make(map[int]bool)
	found := 0
	for _, e := range z.TOC {
		if !slices.Contains(files, e.Name) {
			continue
		}
		found++
		for i, sp := range z.ZInfo.Spans {
			if sp.Out.Off <= e.Offset+e.Size && sp.Out.End() > e.Offset {
				wanted[i] = true
			}
		}
	}
	if found != len(files) || len(wanted) < 2 {
		t.Fatalf("%d files of %v, %d spans", found, files, len(wanted))
	}
	if fmt.Sprint(in) != fmt.Sprint(wanted) {
		t.Errorf("spans %v of %v, want %v", in, files, wanted)
	}
}

// TestBuildHostileManifest holds that a manifest is bounded and checked before its layers are touched.
func TestBuildHostileManifest(t *testing.T) {
	for name, p := range map[string]string{
		"not JSON":       "{",
		"schema version": `{"schemaVersion":1}`,
		"media type":     `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json"}`,
		"no config":      `{"schemaVersion":2,"layers":[]}`,
		"layer size":     `{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"` + emptyDigest + `","size":2},"layers":[{"mediaType":"a/b","digest":"` + emptyDigest + `","size":-1}]}`,
		"layers": `{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"` + emptyDigest + `","size":2},"layers":[` +
			strings.Repeat(`{},`, index.MaxLayers) + `{}]}`,
	} {
		s := new(indextest.Store)
		desc := s.Add(ocispec.MediaTypeImageManifest, []byte(p))
		if _, _, err := index.Build(t.Context(), s, desc, index.V1, all()); !errors.Is(err, index.ErrFormat) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	s := new(indextest.Store)
	for name, d := range map[string]ocispec.Descriptor{
		"too large": {MediaType: ocispec.MediaTypeImageManifest, Digest: dgstA, Size: index.MaxManifestSize + 1},
		"negative":  {MediaType: ocispec.MediaTypeImageManifest, Digest: dgstA, Size: -1},
		"no digest": {MediaType: ocispec.MediaTypeImageManifest, Size: 5},
	} {
		s.OnFetch = func(ocispec.Descriptor) error { t.Errorf("%s: fetched", name); return nil }
		if _, _, err := index.Build(t.Context(), s, d, index.V1, all()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

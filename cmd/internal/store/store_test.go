// SPDX-License-Identifier: Apache-2.0

package store

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func describeBytes(mediaType string, p []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(p), Size: int64(len(p))}
}

// labelsInMemory keeps the labels of a local content store.
type labelsInMemory map[digest.Digest]map[string]string

func (l labelsInMemory) Get(d digest.Digest) (map[string]string, error) { return maps.Clone(l[d]), nil }

func (l labelsInMemory) Set(d digest.Digest, m map[string]string) error {
	l[d] = maps.Clone(m)
	return nil
}

func (l labelsInMemory) Update(d digest.Digest, m map[string]string) (map[string]string, error) {
	if l[d] == nil {
		l[d] = make(map[string]string)
	}
	maps.Copy(l[d], m)
	return maps.Clone(l[d]), nil
}

func containerdStore(t *testing.T) (*Containerd, content.Store) {
	t.Helper()
	cs, err := local.NewLabeledStore(t.TempDir(), labelsInMemory{})
	must(t, err)
	return NewContainerd(cs), cs
}

func layout(t *testing.T) *Layout {
	t.Helper()
	l, err := OpenLayout(t.Context(), t.TempDir())
	must(t, err)
	return l
}

// both is what both stores can do.
type both interface {
	index.Store
	Delete(ctx context.Context, dgst digest.Digest) error
}

func TestStores(t *testing.T) {
	cs, _ := containerdStore(t)
	l := layout(t)
	for name, st := range map[string]both{"containerd": cs, "layout": l} {
		t.Run(name, func(t *testing.T) { testStore(t, st) })
	}
}

func testStore(t *testing.T, st both) {
	ctx := t.Context()
	p := []byte("content")
	desc := describeBytes("application/octet-stream", p)
	if _, err := st.Fetch(ctx, desc); !errdefs.IsNotFound(err) {
		t.Errorf("fetch what is not there: %v", err)
	}
	for range 2 { // what is there already is no error
		must(t, st.Push(ctx, desc, bytes.NewReader(p)))
	}
	for _, d := range []ocispec.Descriptor{desc, {Digest: desc.Digest}} {
		got, err := index.ReadAll(ctx, st, d, 100)
		if err != nil || !bytes.Equal(got, p) {
			t.Errorf("read %v: %q, %v", d, got, err)
		}
	}
	if _, err := index.ReadAll(ctx, st, desc, 3); err == nil {
		t.Error("read more than the limit")
	}
	if _, err := index.ReadAll(ctx, st, ocispec.Descriptor{Digest: desc.Digest}, 3); err == nil {
		t.Error("read more than the limit, size unknown")
	}
	cancelled, cancel := context.WithCancel(ctx)
	r, err := st.Fetch(cancelled, desc)
	must(t, err)
	cancel()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("read after the end of the context: %v", err)
	}
	must(t, r.Close())
	must(t, st.Delete(ctx, desc.Digest))
	if _, err := st.Fetch(ctx, desc); !errdefs.IsNotFound(err) {
		t.Errorf("fetch what was deleted: %v", err)
	}
	if err := st.Delete(ctx, desc.Digest); err != nil && !errdefs.IsNotFound(err) {
		t.Errorf("delete twice: %v", err)
	}
	for _, bad := range []digest.Digest{"", "sha256:../../x", "sha256:" + digest.Digest(strings.Repeat("A", 64)), "sha512:" + digest.Digest(strings.Repeat("a", 128))} {
		if err := st.Push(ctx, ocispec.Descriptor{Digest: bad}, bytes.NewReader(nil)); err == nil {
			t.Errorf("push of digest %q", bad)
		}
		if _, err := st.Fetch(ctx, ocispec.Descriptor{Digest: bad}); err == nil {
			t.Errorf("fetch of digest %q", bad)
		}
	}
}

// TestPushFails demands that a failed push leaves neither blob nor ingest.
func TestPushFails(t *testing.T) {
	p := bytes.Repeat([]byte("content"), 1000)
	desc := describeBytes("application/octet-stream", p)
	for name, r := range map[string]func(cancel func()) io.Reader{
		"wrong": func(func()) io.Reader { return bytes.NewReader(append([]byte("x"), p[1:]...)) },
		"short": func(func()) io.Reader { return bytes.NewReader(p[:100]) },
		"long":  func(func()) io.Reader { return bytes.NewReader(append(p[:len(p):len(p)], "more"...)) },
		"error": func(func()) io.Reader {
			return io.MultiReader(bytes.NewReader(p[:100]), iotest.ErrReader(errors.New("broken")))
		},
		"cancel": func(cancel func()) io.Reader {
			return io.MultiReader(bytes.NewReader(p[:100]), readerFunc(func([]byte) (int, error) {
				cancel()
				return 0, context.Canceled
			}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, cs := containerdStore(t)
			l := layout(t)
			for _, st := range []both{c, l} {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if err := st.Push(ctx, desc, r(cancel)); err == nil || !strings.Contains(err.Error(), desc.Digest.String()) {
					t.Errorf("error %v", err)
				}
				if _, err := st.Fetch(t.Context(), desc); !errdefs.IsNotFound(err) {
					t.Errorf("fetch: %v", err)
				}
			}
			ingests, err := cs.ListStatuses(t.Context())
			must(t, err)
			files, err := os.ReadDir(filepath.Join(l.dir, "ingest"))
			must(t, err)
			if len(ingests)+len(files) > 0 {
				t.Errorf("ingests %v, files %v", ingests, files)
			}
		})
	}
}

func TestLabels(t *testing.T) {
	c, cs := containerdStore(t)
	d := func(s string) ocispec.Descriptor { return describeBytes("application/octet-stream", []byte(s)) }
	soci := d("cfg")
	soci.MediaType = index.MediaTypeV2
	for name, tt := range map[string]struct {
		mediaType string
		doc       any
		want      map[string]string
	}{
		"index": {
			ocispec.MediaTypeImageManifest, ocispec.Manifest{Config: soci, Layers: []ocispec.Descriptor{d("a"), d("b")}},
			map[string]string{"config": "cfg", "ztoc.0": "a", "ztoc.1": "b"},
		},
		"manifest": {
			ocispec.MediaTypeImageManifest, ocispec.Manifest{Config: d("cfg"), Layers: []ocispec.Descriptor{d("a"), d("b")}},
			map[string]string{"config": "cfg", "l.0": "a", "l.1": "b"},
		},
		"image index": {
			ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{d("a"), d("b")}},
			map[string]string{"m.0": "a", "m.1": "b"},
		},
	} {
		p, err := json.Marshal(tt.doc)
		must(t, err)
		desc := describeBytes(tt.mediaType, p)
		want := make(map[string]string)
		for k, v := range tt.want {
			want["containerd.io/gc.ref.content."+k] = d(v).Digest.String()
		}
		must(t, c.Push(t.Context(), desc, bytes.NewReader(p)))
		info, err := cs.Info(t.Context(), desc.Digest)
		must(t, err)
		if !maps.Equal(info.Labels, want) {
			t.Errorf("%s: labels %v, want %v", name, info.Labels, want)
		}
		// A manifest that came without labels gets them.
		_, err = cs.Update(t.Context(), content.Info{Digest: desc.Digest}, "labels")
		must(t, err)
		must(t, c.Push(t.Context(), desc, bytes.NewReader(p)))
		info, err = cs.Info(t.Context(), desc.Digest)
		must(t, err)
		if !maps.Equal(info.Labels, want) {
			t.Errorf("%s again: labels %v, want %v", name, info.Labels, want)
		}
	}
	bad := []byte("{")
	if err := c.Push(t.Context(), describeBytes(ocispec.MediaTypeImageManifest, bad), bytes.NewReader(bad)); err == nil {
		t.Error("a manifest that is none was pushed")
	}
}

func TestBlobs(t *testing.T) {
	c, _ := containerdStore(t)
	l := layout(t)
	must(t, os.WriteFile(filepath.Join(l.dir, "blobs", "stray"), nil, 0o600))
	for _, st := range []interface {
		both
		index.Store
	}{c, l} {
		var want []digest.Digest
		for _, s := range []string{"a", "b", "c"} {
			desc := describeBytes("application/octet-stream", []byte(s))
			must(t, st.Push(t.Context(), desc, strings.NewReader(s)))
			want = append(want, desc.Digest)
		}
		var got []digest.Digest
		walk := c.Blobs
		if st == both(l) {
			walk = l.Blobs
			must(t, os.WriteFile(filepath.Join(l.dir, "blobs", "sha256", "stray"), nil, 0o600))
		}
		for d, err := range walk(t.Context()) {
			must(t, err)
			if d.Size != 1 {
				t.Errorf("size %d", d.Size)
			}
			got = append(got, d.Digest)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("walked %v, want %v", got, want)
		}
		for _, err := range walk(t.Context()) {
			must(t, err)
			break
		}
	}
}

func TestTee(t *testing.T) {
	c, _ := containerdStore(t)
	l := layout(t)
	tee := Tee{Overlay{Artifacts: l, Images: c}}
	desc := describeBytes("application/octet-stream", []byte("x"))
	must(t, tee.Push(t.Context(), desc, strings.NewReader("x")))
	for _, st := range []index.Fetcher{c, l, tee} {
		if _, err := index.ReadAll(t.Context(), st, desc, 10); err != nil {
			t.Error(err)
		}
	}
	must(t, l.Delete(t.Context(), desc.Digest))
	if _, err := index.ReadAll(t.Context(), tee, desc, 10); err != nil {
		t.Errorf("fetch from the images: %v", err)
	}
}

// TestLayoutReopened demands that a layout opens again though the subject of an
// index in it is elsewhere.
func TestLayoutReopened(t *testing.T) {
	l := layout(t)
	subject := describeBytes(ocispec.MediaTypeImageManifest, []byte("elsewhere"))
	p, err := json.Marshal(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Subject: &subject})
	must(t, err)
	desc := describeBytes(ocispec.MediaTypeImageManifest, p)
	must(t, l.Push(t.Context(), desc, bytes.NewReader(p)))
	again, err := OpenLayout(t.Context(), l.dir)
	must(t, err)
	if _, err := index.ReadAll(t.Context(), again, desc, 1000); err != nil {
		t.Error(err)
	}
}

// TestSourceHostile demands an error, not more, of archives that are no layouts.
func TestSourceHostile(t *testing.T) {
	archiveOf := func(hdrs ...tar.Header) []byte {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, h := range hdrs {
			data := h.Linkname
			if h.Typeflag == tar.TypeReg {
				h.Linkname, h.Size = "", int64(len(data))
			}
			must(t, w.WriteHeader(&h))
			if h.Typeflag == tar.TypeReg {
				_, err := io.WriteString(w, data)
				must(t, err)
			}
		}
		must(t, w.Close())
		return buf.Bytes()
	}
	reg := func(name, data string) tar.Header {
		return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: data}
	}
	lay := reg("oci-layout", "{}")
	for name, tt := range map[string]struct {
		p    []byte
		want string
	}{
		"empty":        {nil, "no oci-layout file"},
		"garbage":      {bytes.Repeat([]byte("garbage"), 1000), "invalid tar header"},
		"gzip":         {[]byte{0x1f, 0x8b, 8}, "compressed with gzip"},
		"link":         {archiveOf(tar.Header{Typeflag: tar.TypeSymlink, Name: "oci-layout", Linkname: "/etc/passwd"}), "no oci-layout file"},
		"no index":     {archiveOf(lay), "index.json"},
		"no json":      {archiveOf(lay, reg("index.json", "{")), "decode index.json"},
		"no image":     {archiveOf(lay, reg("index.json", "{}")), "names no image"},
		"bad digest":   {archiveOf(lay, reg("index.json", `{"manifests":[{"digest":"sha256:../../../etc/passwd"}]}`)), "digest"},
		"large index":  {archiveOf(lay, reg("index.json", strings.Repeat(" ", MaxManifestSize+1))), "more than"},
		"other digest": {archiveOf(lay, reg("index.json", `{"manifests":[{"digest":"sha512:`+strings.Repeat("a", 128)+`"}]}`)), "unsupported"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x.tar")
			must(t, os.WriteFile(file, tt.p, 0o600))
			s, err := OpenSource(file)
			if err == nil {
				defer s.Close()
				_, err = s.Images()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), file) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// TestSwapFails demands that what is there stays if the new layout cannot get its name.
func TestSwapFails(t *testing.T) {
	dir := t.TempDir()
	dest := filepath.Join(dir, "dest")
	must(t, os.Mkdir(dest, 0o700))
	must(t, os.WriteFile(filepath.Join(dest, "file"), nil, 0o600))
	if err := swap(filepath.Join(dir, "missing"), dest); err == nil {
		t.Error("swapped with nothing")
	}
	if _, err := os.Stat(filepath.Join(dest, "file")); err != nil {
		t.Error(err)
	}
}

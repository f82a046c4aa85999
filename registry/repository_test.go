// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
)

const artifact = "application/vnd.example.index.v1+json"

func TestPushPullReferrers(t *testing.T) {
	legs(t, func(t *testing.T, opts registrytest.Options) {
		s := start(t, opts)
		r, ctx := open(t, s, registry.Options{}), t.Context()

		// From something that cannot seek, and one of them twice.
		big := random(100_000)
		for _, p := range [][]byte{big, big[:1000], big[:1000], nil} {
			if err := r.Push(ctx, descOf("application/octet-stream", p), io.MultiReader(bytes.NewReader(p))); err != nil {
				t.Fatal(err)
			}
			got, err := readAll(r.Fetch(ctx, descOf("application/octet-stream", p)))
			if err != nil || !bytes.Equal(got, p) {
				t.Fatalf("fetch: %d bytes, %v", len(got), err)
			}
		}

		image, imageDesc := manifestOf(t, s, "application/vnd.oci.image.config.v1+json", nil)
		if err := r.Push(ctx, imageDesc, bytes.NewReader(image)); err != nil {
			t.Fatal(err)
		}
		if err := r.Tag(ctx, imageDesc, "v1"); err != nil {
			t.Fatal(err)
		}
		for _, ref := range []string{"v1", imageDesc.Digest.String()} {
			if got, err := r.Resolve(ctx, ref); err != nil || got.Digest != imageDesc.Digest || got.Size != imageDesc.Size || got.MediaType != imageDesc.MediaType {
				t.Errorf("resolve %s: %+v, %v", ref, got, err)
			}
		}

		want := []digest.Digest{}
		for _, typ := range []string{artifact, "application/vnd.example.other", artifact + "2"} {
			p, d := manifestOf(t, s, typ, &imageDesc)
			if err := r.Push(ctx, d, bytes.NewReader(p)); err != nil {
				t.Fatal(err)
			}
			if err := r.Push(ctx, d, bytes.NewReader(p)); err != nil { // again
				t.Fatal(err)
			}
			want = append(want, d.Digest)
		}
		for _, fresh := range []*registry.Repository{r, open(t, s, registry.Options{})} {
			list, err := fresh.Referrers(ctx, imageDesc, artifact)
			if err != nil || len(list) != 1 || list[0].Digest != want[0] || list[0].ArtifactType != artifact {
				t.Errorf("referrers: %+v, %v", list, err)
			}
			list, err = fresh.Referrers(ctx, imageDesc, "")
			var got []digest.Digest
			for _, d := range list {
				got = append(got, d.Digest)
			}
			slices.Sort(got)
			if slices.Sort(want[1:]); err != nil || len(got) != 3 || !slices.Contains(got, want[0]) {
				t.Errorf("all referrers: %v, %v", got, err)
			}
		}
		none := descOf(ocispec.MediaTypeImageManifest, []byte("no one"))
		if list, err := r.Referrers(ctx, none, artifact); err != nil || len(list) != 0 {
			t.Errorf("referrers of an unknown manifest: %v, %v", list, err)
		}
	})
}

func TestMissing(t *testing.T) {
	legs(t, func(t *testing.T, opts registrytest.Options) {
		s := start(t, opts)
		r, ctx := open(t, s, registry.Options{}), t.Context()
		add(t, s, []byte("there"))
		blob := descOf("application/octet-stream", []byte("not there"))
		manifest := descOf(ocispec.MediaTypeImageManifest, []byte("{}"))
		_, resolveErr := r.Resolve(ctx, "nope")
		_, blobErr := r.Fetch(ctx, blob)
		_, manifestErr := r.Fetch(ctx, manifest)
		for name, err := range map[string]error{
			"resolve": resolveErr, "blob": blobErr, "manifest": manifestErr,
			"range": r.Blob(blob).ReadAt(ctx, make([]byte, 2), 1), "tag": r.Tag(ctx, manifest, "v1"),
		} {
			var e *registry.Error
			if !errors.Is(err, errdefs.ErrNotFound) || !errors.As(err, &e) || e.Status != 404 || e.Temporary() {
				t.Errorf("%s: %v, want a 404 that matches errdefs.ErrNotFound", name, err)
			}
		}
		for _, d := range []ocispec.Descriptor{blob, manifest} {
			if ok, err := r.Exists(ctx, d); ok || err != nil {
				t.Errorf("exists %s: %t, %v", d.MediaType, ok, err)
			}
		}
	})
}

func TestInvalidDescriptors(t *testing.T) {
	s := start(t, registrytest.Options{})
	r, ctx := open(t, s, registry.Options{}), t.Context()
	good := descOf("x/y", []byte("z"))
	for name, d := range map[string]ocispec.Descriptor{
		"digest":   {MediaType: "x/y", Digest: "sha256:../../../etc", Size: 1},
		"no hash":  {MediaType: "x/y", Digest: "md9:00", Size: 1},
		"size":     {MediaType: "x/y", Digest: good.Digest, Size: -1},
		"manifest": {MediaType: ocispec.MediaTypeImageIndex, Digest: good.Digest, Size: registry.MaxManifestSize + 1},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := r.Fetch(ctx, d); err == nil {
				t.Error("fetched")
			}
			if _, err := r.Exists(ctx, d); err == nil {
				t.Error("looked for")
			}
			if err := r.Push(ctx, d, strings.NewReader("z")); err == nil {
				t.Error("pushed")
			}
			if err := r.Blob(d).ReadAt(ctx, nil, 0); name != "manifest" && err == nil {
				t.Error("read")
			}
		})
	}
	if got := s.Stats(); got != (registrytest.Stats{}) {
		t.Errorf("requests were made: %+v", got)
	}
}

func TestRepositoryNames(t *testing.T) {
	c := must[*registry.Client](t)(registry.NewClient(registry.Options{}))
	for ref, want := range map[string]string{
		"busybox": "docker.io/library/busybox", "docker.io/library/busybox:1": "docker.io/library/busybox",
		"localhost:5000/go:1.26": "localhost:5000/go", "a.b/c/d@sha256:" + strings.Repeat("0", 64): "a.b/c/d",
	} {
		if r, err := c.Repository(ref); err != nil || r.Name() != want {
			t.Errorf("%s: %v, want %s", ref, err, want)
		}
	}
	for _, ref := range []string{"", "a/UPPER", "http://a/b", "a b", "x/../y", strings.Repeat("a/", 200)} {
		if _, err := c.Repository(ref); err == nil {
			t.Errorf("%q is taken for a reference", ref)
		}
	}
}

// TestHostile serves answers that no registry should give.
func TestHostile(t *testing.T) {
	body := []byte(`{"schemaVersion":2}`)
	desc := descOf(ocispec.MediaTypeImageManifest, body)
	endless := func(w http.ResponseWriter, r *registrytest.Request) {
		for p := make([]byte, 32<<10); r.Context().Err() == nil; {
			if _, err := w.Write(p); err != nil {
				return
			}
		}
	}
	manifestHeader := func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", desc.MediaType)
	}
	tests := []struct {
		name   string
		answer func(w http.ResponseWriter, r *registrytest.Request)
		ask    func(r *registry.Repository, t *testing.T) error
		want   string
	}{
		{"endless manifest", func(w http.ResponseWriter, r *registrytest.Request) { manifestHeader(w); endless(w, r) }, fetch(desc), "does not match"},
		{"wrong manifest", func(w http.ResponseWriter, r *registrytest.Request) {
			manifestHeader(w)
			_, _ = w.Write([]byte(`{"schemaVersion":3}`))
		}, fetch(desc), "does not match"},
		{"huge manifest", func(w http.ResponseWriter, r *registrytest.Request) {
			manifestHeader(w)
			w.Header().Set("Docker-Content-Digest", desc.Digest.String())
			w.Header().Set("Content-Length", "99999999999")
		}, resolve, "too large"},
		{"digest of someone else", func(w http.ResponseWriter, r *registrytest.Request) {
			manifestHeader(w)
			w.Header().Set("Docker-Content-Digest", digest.FromString("x").String())
			_, _ = w.Write(body)
		}, resolveDigest(desc), "digest mismatch"},
		{"headers", func(w http.ResponseWriter, r *registrytest.Request) {
			w.Header().Set("X", strings.Repeat("x", 300<<10))
		}, resolve, "header"},
		{"endless error", func(w http.ResponseWriter, r *registrytest.Request) { w.WriteHeader(400); endless(w, r) }, fetch(desc), "400 Bad Request"},
		{"error text", func(w http.ResponseWriter, r *registrytest.Request) {
			w.WriteHeader(400)
			_, _ = w.Write([]byte(`{"errors":[{"code":"X\u001b[2J\n","message":"see http://u:p@h/x?sig=1 ` + strings.Repeat("A", 4000) + `"}]}`))
		}, fetch(desc), "X [2J : see http://h/x?... AAA"},
		{"redirect loop", func(w http.ResponseWriter, r *registrytest.Request) {
			http.Redirect(w, r.Request, r.URL.Path, http.StatusTemporaryRedirect)
		}, resolve, "more than 10 redirects"},
		{"endless referrers", endlessReferrers, listReferrers, "page"},
		{"blob redirect loop", func(w http.ResponseWriter, r *registrytest.Request) {
			http.Redirect(w, r.Request, r.URL.Path, http.StatusTemporaryRedirect)
		}, fetch(descOf("x/y", body)), "more than 10 redirects"},
		{"blob redirect to a file", func(w http.ResponseWriter, r *registrytest.Request) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(302)
		}, fetch(descOf("x/y", body)), "redirect to nowhere"},
		{"endless blob", endless, fetch(descOf("x/y", body)), "does not match"},
		{"short blob", func(w http.ResponseWriter, r *registrytest.Request) { _, _ = w.Write(body[:5]) }, fetch(descOf("x/y", body)), "Content-Length"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, registrytest.Options{Hook: func(w http.ResponseWriter, r *registrytest.Request) bool {
				tt.answer(w, r)
				return true
			}})
			err := tt.ask(open(t, s, registry.Options{Retry: registry.Retry{Max: -1}}), t)
			if err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 2000 || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("error %v, want one line with %q", err, tt.want)
			}
		})
	}
}

func endlessReferrers(w http.ResponseWriter, r *registrytest.Request) {
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	w.Header().Set("Link", "<"+r.URL.Path+">; rel=next")
	_, _ = w.Write([]byte(`{"manifests":[{}]}`))
}

func fetch(d ocispec.Descriptor) func(*registry.Repository, *testing.T) error {
	return func(r *registry.Repository, t *testing.T) error {
		_, err := readAll(r.Fetch(t.Context(), d))
		return err
	}
}

func resolveDigest(d ocispec.Descriptor) func(*registry.Repository, *testing.T) error {
	return func(r *registry.Repository, t *testing.T) error {
		_, err := r.Resolve(t.Context(), d.Digest.String())
		return err
	}
}

func resolve(r *registry.Repository, t *testing.T) error {
	_, err := r.Resolve(t.Context(), "latest")
	return err
}

func listReferrers(r *registry.Repository, t *testing.T) error {
	_, err := r.Referrers(t.Context(), descOf("", []byte("x")), "")
	return err
}

// TestNoReferrersAPI takes what registries without the API answer for what it is.
func TestNoReferrersAPI(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter){
		"html": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<html>"))
		},
		"not json": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			_, _ = w.Write([]byte("<html>"))
		},
		"400": func(w http.ResponseWriter) { w.WriteHeader(400) },
		"405": func(w http.ResponseWriter) { w.WriteHeader(405) },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, registrytest.Options{NoReferrers: true, Hook: func(w http.ResponseWriter, r *registrytest.Request) bool {
				if r.Kind == registrytest.KindReferrers {
					answer(w)
				}
				return r.Kind == registrytest.KindReferrers
			}})
			r := open(t, s, registry.Options{})
			subject := descOf(ocispec.MediaTypeImageManifest, []byte("x"))
			p, d := manifestOf(t, s, artifact, &subject)
			if err := r.Push(t.Context(), d, bytes.NewReader(p)); err != nil {
				t.Fatal(err)
			}
			list, err := open(t, s, registry.Options{}).Referrers(t.Context(), subject, artifact)
			if err != nil || len(list) != 1 || list[0].Digest != d.Digest {
				t.Errorf("%+v, %v", list, err)
			}
		})
	}
}

// TestContentTypeParameters has a registry say the charset of its list.
func TestContentTypeParameters(t *testing.T) {
	subject := descOf(ocispec.MediaTypeImageManifest, []byte("x"))
	s := start(t, registrytest.Options{Hook: func(w http.ResponseWriter, r *registrytest.Request) bool {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex+"; charset=utf-8")
		_, _ = w.Write([]byte(`{"manifests":[{"mediaType":"a/b","size":5,"artifactType":"` + artifact + `","digest":"` + subject.Digest.String() + `"},{"size":-1}]}`))
		return true
	}})
	list, err := open(t, s, registry.Options{}).Referrers(t.Context(), subject, artifact)
	if err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestResolveByGet meets registries that do not answer HEAD well.
func TestResolveByGet(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter){
		"405":       func(w http.ResponseWriter) { w.WriteHeader(405) },
		"no digest": func(w http.ResponseWriter) { w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest) },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, registrytest.Options{Hook: func(w http.ResponseWriter, r *registrytest.Request) bool {
				if r.Method == http.MethodHead {
					answer(w)
				}
				return r.Method == http.MethodHead
			}})
			want := must[ocispec.Descriptor](t)(s.AddManifest(repoName, "v1", ocispec.MediaTypeImageManifest, []byte(`{}`)))
			got, err := open(t, s, registry.Options{}).Resolve(t.Context(), "v1")
			if err != nil || got.Digest != want.Digest {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestMetadataRetries(t *testing.T) {
	s := start(t, registrytest.Options{})
	want := must[ocispec.Descriptor](t)(s.AddManifest(repoName, "v1", ocispec.MediaTypeImageManifest, []byte(`{"a":"bcdefgh"}`)))
	r, ctx := open(t, s, registry.Options{}), t.Context()
	s.Inject(registrytest.Fault{Kind: registrytest.KindManifest, Times: 2, Status: 503})
	s.Inject(registrytest.Fault{Kind: registrytest.KindManifest, Skip: 1, Times: 1, Truncate: 5})
	if _, err := r.Resolve(ctx, "v1"); err != nil {
		t.Error(err)
	}
	if _, err := readAll(r.Fetch(ctx, want)); err != nil {
		t.Error(err)
	}
	p := random(1 << 20)
	s.Inject(registrytest.Fault{Kind: registrytest.KindUpload, Times: 1, Status: 502})
	s.Inject(registrytest.Fault{Kind: registrytest.KindUpload, Match: put, Times: 1, Status: 500})
	if err := r.Push(ctx, descOf("x/y", p), bytes.NewReader(p)); err != nil {
		t.Error(err)
	}
	s.Inject(registrytest.Fault{Kind: registrytest.KindUpload, Match: put, Times: 1, Status: 500})
	p = random(9 << 20)
	var e *registry.Error
	if err := r.Push(ctx, descOf("x/y", p), io.MultiReader(bytes.NewReader(p))); !errors.As(err, &e) || e.Status != 500 {
		t.Errorf("push of what cannot be read twice: %v", err)
	}
	if err := r.Push(ctx, descOf("x/y", p), io.MultiReader(bytes.NewReader(p[1:]))); err == nil {
		t.Error("push of the wrong bytes succeeded")
	}
}

func put(r *registrytest.Request) bool { return r.Method == http.MethodPut }

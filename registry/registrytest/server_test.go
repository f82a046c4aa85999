// SPDX-License-Identifier: Apache-2.0

package registrytest_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/registry/registrytest"
)

func start(t *testing.T, opts registrytest.Options) *registrytest.Server {
	t.Helper()
	s := registrytest.New(opts)
	t.Cleanup(s.Close)
	return s
}

// do makes a request and returns the answer with its body read.
func do(t *testing.T, method, url, body string, header map[string]string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		b = append(b, "|"+err.Error()...)
	}
	return res, string(b)
}

func TestUpload(t *testing.T) {
	dir := t.TempDir()
	for name, opts := range map[string]registrytest.Options{"memory": {}, "dir": {Dir: dir}} {
		t.Run(name, func(t *testing.T) {
			s := start(t, opts)
			dgst := digest.FromString("hello world")
			base := s.URL() + "/v2/a/b/blobs/"

			res, _ := do(t, "POST", base+"uploads/?mount="+dgst.String()+"&from=c", "", nil)
			if res.StatusCode != http.StatusAccepted {
				t.Fatalf("mount: %s, want 202", res.Status)
			}
			up := s.URL() + res.Header.Get("Location")
			if res, _ = do(t, "PATCH", up, "hello ", map[string]string{"Content-Range": "0-5"}); res.StatusCode != http.StatusAccepted || res.Header.Get("Range") != "0-5" {
				t.Fatalf("first chunk: %s, Range %q", res.Status, res.Header.Get("Range"))
			}
			if res, _ = do(t, "PATCH", up, "world", map[string]string{"Content-Range": "9-13"}); res.StatusCode != http.StatusRequestedRangeNotSatisfiable {
				t.Fatalf("chunk with a gap: %s, want 416", res.Status)
			}
			if res, body := do(t, "PUT", up+"?digest="+dgst.String(), "world", nil); res.StatusCode != http.StatusCreated {
				t.Fatalf("last chunk: %s %s", res.Status, body)
			}
			if res, body := do(t, "GET", base+dgst.String(), "", map[string]string{"Range": "bytes=6-"}); res.StatusCode != http.StatusPartialContent || body != "world" {
				t.Errorf("range: %s %q", res.Status, body)
			}
			if res, _ := do(t, "GET", s.URL()+"/v2/c/blobs/"+dgst.String(), "", nil); res.StatusCode != http.StatusNotFound {
				t.Errorf("blob in another repository: %s, want 404", res.Status)
			}
			if res, _ := do(t, "POST", base+"uploads/?digest="+dgst.String(), "hello wOrld", nil); res.StatusCode != http.StatusBadRequest {
				t.Errorf("wrong digest: %s, want 400", res.Status)
			}
		})
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("directory holds %v (%v), want the one blob", files, err)
	}
}

func TestManifestAndReferrers(t *testing.T) {
	s := start(t, registrytest.Options{})
	subject, err := s.AddManifest("a", "v1", ocispec.MediaTypeImageManifest, []byte(`{"schemaVersion":2}`))
	if err != nil {
		t.Fatal(err)
	}
	config, err := s.AddBlob("a", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	doc := fmt.Sprintf(`{"config":{"mediaType":"x/y","digest":%q},"subject":{"digest":%q}}`, config.Digest, subject.Digest)
	res, _ := do(t, "PUT", s.URL()+"/v2/a/manifests/"+digest.FromString(doc).String(), doc, map[string]string{"Content-Type": ocispec.MediaTypeImageManifest})
	if res.StatusCode != http.StatusCreated || res.Header.Get("OCI-Subject") != subject.Digest.String() {
		t.Fatalf("push: %s, OCI-Subject %q", res.Status, res.Header.Get("OCI-Subject"))
	}
	_, all := do(t, "GET", s.URL()+"/v2/a/referrers/"+subject.Digest.String()+"?artifactType=x/y", "", nil)
	_, none := do(t, "GET", s.URL()+"/v2/a/referrers/"+subject.Digest.String()+"?artifactType=z", "", nil)
	if !strings.Contains(all, digest.FromString(doc).String()) || strings.Contains(none, "digest") {
		t.Errorf("referrers: %s and, filtered, %s", all, none)
	}
	if _, body := do(t, "GET", s.URL()+"/v2/a/tags/list", "", nil); !strings.Contains(body, `["v1"]`) {
		t.Errorf("tags: %s", body)
	}
	if _, err := s.AddManifest("other", "", ocispec.MediaTypeImageManifest, []byte(doc)); err == nil {
		t.Error("a manifest was taken whose blobs are missing")
	}
}

func TestFaults(t *testing.T) {
	s := start(t, registrytest.Options{})
	b, err := s.AddBlob("a", strings.NewReader("0123456789"))
	if err != nil {
		t.Fatal(err)
	}
	url := s.URL() + "/v2/a/blobs/" + b.Digest.String()
	s.Inject(registrytest.Fault{Kind: registrytest.KindBlob, Skip: 1, Times: 1, Status: 429, RetryAfter: 2 * time.Second})
	s.Inject(registrytest.Fault{Kind: registrytest.KindBlob, Skip: 1, Times: 1, Truncate: 4})
	for i, want := range []string{"200 0123456789", "429 ", "200 0123|unexpected EOF", "200 0123456789"} {
		res, body := do(t, "GET", url, "", nil)
		if got := fmt.Sprint(res.StatusCode, " ", body); got != want {
			t.Errorf("request %d: %q, want %q", i, got, want)
		}
	}
	if got := s.Stats().Blob; got != (registrytest.Count{Requests: 4, Bytes: 24}) {
		t.Errorf("counted %+v", got)
	}
}

// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/benchmark/internal/image"
	"github.com/seekoci/seekoci/benchmark/internal/node"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// TestNoIndex pulls images that nobody indexed: containerd pulls them as ever.
func TestNoIndex(t *testing.T) {
	needSandbox(t)
	for _, l := range []leg{
		{name: "containerd 1.6", containerd: debian, registry: dockerRegistry, pull: rpull},
		{name: "containerd 2", containerd: built, registry: ownRegistry, pull: transfer},
	} {
		t.Run(l.name, func(t *testing.T) {
			n, ref := start(t, l.containerd(t), ""), l.registry(t).host+"/plain:1"
			img := minimal(t, ref, "no index")
			l.pull(t, n, ref)
			if out := run(t, n, ref, node.Soci, "tree"); !strings.Contains(out, `"variant"`) {
				t.Errorf("the container prints %q", out)
			}
			wantLogged(t, n, 1, map[string]string{"layer": img.Layers[0].Digest.String(), "defer-snapshot-runtime": "true", "reason": "no-index"})
			if m := metrics(t, n); m.Decisions("fallback") != 1 || m.Decisions("lazy") != 0 {
				t.Errorf("%d layers left to containerd, %d lazy, want 1 and 0", m.Decisions("fallback"), m.Decisions("lazy"))
			}
		})
	}
}

// badDay is a registry that answers some requests for blobs with the wrong bytes.
type badDay struct {
	*registrytest.Server
	mu    sync.Mutex
	wrong map[digest.Digest]int64 // sizes of the blobs to answer wrongly; guarded by mu
}

func newBadDay(t *testing.T) *badDay {
	b := &badDay{wrong: make(map[digest.Digest]int64)}
	b.Server = registrytest.New(registrytest.Options{Hook: b.hook})
	t.Cleanup(b.Close)
	return b
}

// spoil makes the registry answer zeros for the blob of size bytes from now on.
func (b *badDay) spoil(d digest.Digest, size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wrong[d] = size
}

// heal makes the registry answer the right bytes again.
func (b *badDay) heal(d digest.Digest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.wrong, d)
}

func (b *badDay) hook(w http.ResponseWriter, r *registrytest.Request) bool {
	b.mu.Lock()
	size, wrong := b.wrong[digest.Digest(r.Reference)]
	b.mu.Unlock()
	if !wrong || r.Kind != registrytest.KindBlob && r.Kind != registrytest.KindRange {
		return false
	}
	http.ServeContent(w, r.Request, "", time.Time{}, bytes.NewReader(make([]byte, size)))
	return true
}

// indexed pushes a minimal image and returns its index and its only zTOC, neither of which is pushed.
func indexed(t *testing.T, n *node.Node, ref, variant string) (*image.Image, ocispec.Manifest, []byte) {
	t.Helper()
	img := minimal(t, ref, variant)
	ctr(t, n, "content", "fetch", "--plain-http", ref)
	soci(t, n, "create", "--min-layer-size", "0", ref)
	dgst := strings.TrimSpace(soci(t, n, "index", "list", "--quiet", "--ref", ref))
	var index ocispec.Manifest
	must(t, json.Unmarshal([]byte(soci(t, n, "index", "info", dgst)), &index))
	if len(index.Layers) != 1 || index.Subject == nil || index.Subject.Digest != img.Manifest.Digest {
		t.Fatalf("index %s is not one of %s with one zTOC: %+v", dgst, img.Manifest.Digest, index)
	}
	ztoc := ctr(t, n, "content", "get", index.Layers[0].Digest.String())
	return img, index, []byte(ztoc)
}

// pushIndex pushes index with ztoc as its only zTOC.
func pushIndex(t *testing.T, ref string, index ocispec.Manifest, ztoc []byte) {
	t.Helper()
	repo, err := image.Repository(ref)
	must(t, err)
	index.Layers[0].Digest, index.Layers[0].Size = digest.FromBytes(ztoc), int64(len(ztoc))
	manifest, err := json.Marshal(index)
	must(t, err)
	for _, blob := range []struct {
		mediaType string
		content   []byte
	}{{index.Config.MediaType, []byte("{}")}, {index.Layers[0].MediaType, ztoc}, {ocispec.MediaTypeImageManifest, manifest}} {
		desc := ocispec.Descriptor{MediaType: blob.mediaType, Digest: digest.FromBytes(blob.content), Size: int64(len(blob.content))}
		must(t, repo.Push(t.Context(), desc, bytes.NewReader(blob.content)))
	}
}

// TestBadIndex pulls images whose index is there but no good: each layer is made from the whole blob, and the log says why.
func TestBadIndex(t *testing.T) {
	needSandbox(t)
	registry := newBadDay(t)
	build := start(t, debian(t), "")
	n := start(t, debian(t), "")
	otherRef := registry.Host() + "/other:1"
	_, _, otherZTOC := indexed(t, build, otherRef, "a layer of another size: "+strings.Repeat("x", 5000))

	for _, tt := range []struct {
		name   string
		ztoc   func(right []byte) []byte
		spoil  bool
		reason string
	}{
		{name: "right", ztoc: func(p []byte) []byte { return p }},
		{name: "garbage", ztoc: func(p []byte) []byte { return bytes.Repeat([]byte("garbage "), 100) }, reason: "ztoc-invalid"},
		{name: "truncated", ztoc: func(p []byte) []byte { return p[:len(p)/2] }, reason: "ztoc-invalid"},
		{name: "of another layer", ztoc: func([]byte) []byte { return otherZTOC }, reason: "ztoc-mismatch"},
		{name: "not as the digest says", ztoc: func(p []byte) []byte { return p }, spoil: true, reason: "ztoc-fetch"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ref := registry.Host() + "/" + strings.ReplaceAll(tt.name, " ", "-") + ":1"
			img, index, right := indexed(t, build, ref, tt.name)
			ztoc := tt.ztoc(right)
			pushIndex(t, ref, index, ztoc)
			if tt.spoil {
				registry.spoil(digest.FromBytes(ztoc), int64(len(ztoc)))
			}
			rpull(t, n, ref)
			if out := run(t, n, ref, node.Soci, "tree"); !strings.Contains(out, `"variant"`) {
				t.Errorf("the container prints %q", out)
			}
			layer := img.Layers[0].Digest.String()
			if tt.reason == "" {
				wantLogged(t, n, 1, map[string]string{"layer": layer, "remote-snapshot-prepared": "true"})
				return
			}
			wantLogged(t, n, 1, map[string]string{"layer": layer, "local-snapshot-prepared": "true", "reason": tt.reason})
		})
	}
}

// TestWrongBytesAreNotServed has the registry answer wrong bytes for a layer that is mounted already: readers get an error, nothing else.
func TestWrongBytesAreNotServed(t *testing.T) {
	needSandbox(t)
	registry := newBadDay(t)
	n := start(t, debian(t), onlyAsked)
	ref := registry.Host() + "/spoiled:1"
	img, index, ztoc := indexed(t, n, ref, "spoiled")
	pushIndex(t, ref, index, ztoc)
	rpull(t, n, ref)
	registry.spoil(img.Layers[0].Digest, img.Layers[0].Size)
	for range 2 { // an error is not remembered, and not forgotten to be one
		if r, err := n.Run(t.Context(), node.Container{Image: ref, Snapshotter: node.Soci, Args: []string{image.Probe, "tree"}}); err == nil {
			t.Errorf("a container of wrong bytes runs and prints %q", r.Output)
		}
	}
	if got := metrics(t, n).SpansFetched(); got != 0 {
		t.Errorf("%d spans count as fetched", got)
	}
	registry.heal(img.Layers[0].Digest)
	if out := run(t, n, ref, node.Soci, "tree"); !strings.Contains(out, `"variant"`) {
		t.Errorf("after the registry has recovered the container prints %q", out)
	}
}

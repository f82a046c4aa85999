// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// distribution runs Debian's docker-registry, which has no referrers API, and returns its address.
func distribution(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed (Debian package docker-registry)")
	}
	ln := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage:\n  filesystem: {rootdirectory: %s}\nhttp: {addr: %q}\n", dir, addr)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "serve", conf)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // the test's context has killed it, or it has exited
		<-exited
	})
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = c.Close()
			return addr
		}
		select {
		case err := <-exited:
			exited <- err
			t.Fatalf("docker-registry: %v\n%s", err, out.String())
		case <-time.After(20 * time.Millisecond): // until it listens
		}
	}
	t.Fatal("docker-registry does not listen")
	return ""
}

// TestDistribution pushes and pulls with a registry of the real world: no
// referrers API, manifests that cannot be deleted.
func TestDistribution(t *testing.T) {
	addr, ctx := distribution(t), t.Context()
	c := must[*registry.Client](t)(registry.NewClient(registry.Options{Credential: anonymous})) // finds out that it is http
	t.Cleanup(func() { _ = c.Close() })
	repo := func() *registry.Repository {
		return must[*registry.Repository](t)(c.Repository(addr + "/" + repoName))
	}
	r := repo()
	content := random(300_000)
	blob := descOf("application/octet-stream", content)
	for _, p := range [][]byte{content, []byte("{}")} {
		if err := r.Push(ctx, descOf("application/octet-stream", p), bytes.NewReader(p)); err != nil {
			t.Fatal(err)
		}
	}
	b := r.Blob(blob)
	for _, x := range [][2]int{{0, 300_000}, {299_000, 1000}, {1, 5}} {
		if err := readAt(t, b, content, x[0], x[1]); err != nil {
			t.Error(err)
		}
	}
	scratch := start(t, registrytest.Options{}) // only makes manifests
	image, imageDesc := manifestOf(t, scratch, "application/vnd.oci.image.config.v1+json", nil)
	if err := r.Push(ctx, imageDesc, bytes.NewReader(image)); err != nil {
		t.Fatal(err)
	}
	if err := r.Tag(ctx, imageDesc, "v1"); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Resolve(ctx, "v1"); err != nil || got.Digest != imageDesc.Digest {
		t.Errorf("resolve: %+v, %v", got, err)
	}
	want := map[string]ocispec.Descriptor{}
	for i := range 3 {
		p, d := manifestOf(t, scratch, fmt.Sprintf("%s%d", artifact, i), &imageDesc)
		if err := repo().Push(ctx, d, bytes.NewReader(p)); err != nil {
			t.Fatal(err)
		}
		want[fmt.Sprintf("%s%d", artifact, i)] = d
	}
	for typ, d := range want {
		list, err := repo().Referrers(ctx, imageDesc, typ)
		if err != nil || len(list) != 1 || list[0].Digest != d.Digest {
			t.Errorf("referrers of %s: %+v, %v", typ, list, err)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seekoci/seekoci/benchmark/internal/image"
	"github.com/seekoci/seekoci/benchmark/internal/sandbox"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// sandboxDir is the sandbox's directory; "" where there is none, for the reason noSandbox.
var (
	sandboxDir string
	noSandbox  error
)

func TestMain(m *testing.M) {
	if noSandbox = sandbox.Check(); noSandbox != nil {
		os.Exit(m.Run())
	}
	os.Exit(sandbox.Run(sandbox.Options{}, func(dir string) int {
		sandboxDir = dir
		return m.Run()
	}))
}

// TestOverlayfs pulls and runs an image in the ordinary way: what lazy loading is compared with must work by itself.
func TestOverlayfs(t *testing.T) {
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	registry, err := StartDockerRegistry(t.Context(), filepath.Join(sandboxDir, "registry"))
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := registry.Close(); err != nil {
			t.Error(err)
		}
	})
	img, err := image.Minimal(t.Context(), t.TempDir(), "one")
	if err != nil {
		t.Fatal(err)
	}
	ref := registry.Host + "/minimal:1"
	if err := img.Push(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"debian": "", "built": "../../../out/containerd2"} {
		t.Run(name, func(t *testing.T) {
			containerd, err := FindContainerd(dir)
			if err != nil {
				t.Skip(err)
			}
			overlayfs(t, containerd, filepath.Join(sandboxDir, name), ref)
		})
	}
}

func overlayfs(t *testing.T, containerd Containerd, dir, ref string) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var echo strings.Builder
	n, err := Start(t.Context(), Options{Dir: dir, Containerd: containerd, Namespace: sandbox.CgroupParent(sandboxDir), Echo: &echo})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			t.Log(n.Close(t.Context()))
		}
	}()
	if err := n.Pull(t.Context(), ref, Overlayfs); err != nil {
		t.Fatal(err)
	}
	run, err := n.Run(t.Context(), Container{Image: ref, Snapshotter: Overlayfs, Args: []string{image.Probe, "tree"}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(run.Output, `"variant" mode=100644 owner=0:0`) {
		t.Errorf("the container prints %q", run.Output)
	}
	if run.First <= 0 || run.First > run.Total {
		t.Errorf("first output after %s of %s", run.First, run.Total)
	}
	// The shim waits only a few seconds for what a container said, and a busy machine may take longer.
	said := false
	for try := 0; try < 3 && !said; try++ {
		_, err = n.Run(t.Context(), Container{Image: ref, Snapshotter: Overlayfs, Args: []string{image.Probe, "nonsense"}})
		said = err != nil && strings.Contains(err.Error(), "want tree [DIR]")
	}
	if !said {
		t.Errorf("run of a container that fails: %v, want what it said", err)
	}
	if !strings.Contains(echo.String(), "# ctr image pull --plain-http "+ref+"\n") {
		t.Errorf("commands echoed: %q", echo.String())
	}
	closed = true
	if err := n.Close(t.Context()); err != nil {
		t.Errorf("stop the node: %v", err)
	}
	if left, err := Mounts(dir); err != nil || len(left) > 0 {
		t.Errorf("mounts left: %q, %v", left, err)
	}
}

// TestCloseKillsContainers stops a node with a container still running.
func TestCloseKillsContainers(t *testing.T) {
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	containerd, err := FindContainerd("")
	if err != nil {
		t.Skip(err)
	}
	img, err := image.Minimal(t.Context(), t.TempDir(), "two")
	if err != nil {
		t.Fatal(err)
	}
	registry := registrytest.New(registrytest.Options{})
	defer registry.Close()
	ref := registry.Host() + "/minimal:2"
	if err := img.Push(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(sandboxDir, "kill")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n, err := Start(t.Context(), Options{Dir: dir, Containerd: containerd, Namespace: sandbox.CgroupParent(sandboxDir)})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Pull(t.Context(), ref, Overlayfs); err != nil {
		t.Error(err)
	}
	if _, err := n.Ctr(t.Context(), "run", "--detach", "--null-io", ref, "sleeper", image.Probe, "sleep"); err != nil {
		t.Error(err)
	}
	if err := n.Close(t.Context()); err != nil {
		t.Errorf("stop the node: %v", err)
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if cmdline, err := os.ReadFile(p); err == nil && strings.HasPrefix(string(cmdline), image.Probe+"\x00") {
			t.Errorf("the container lives on: %q", cmdline)
		}
	}
}

func TestParseMetrics(t *testing.T) {
	m, err := parseMetrics(strings.NewReader("# HELP a help\n# TYPE a counter\na{kind=\"x\",layer=\"l 1\"} 2\na{kind=\"y\"} 3.5\nb 1e+06\n\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		match []string
		want  float64
	}{{"a", nil, 5.5}, {"a", []string{`kind="x"`}, 2}, {"a", []string{`kind="x"`, `kind="y"`}, 0}, {"b", nil, 1e6}, {"c", nil, 0}} {
		if got := m.Sum(tt.name, tt.match...); got != tt.want {
			t.Errorf("Sum(%s, %q) = %g, want %g", tt.name, tt.match, got, tt.want)
		}
	}
	for _, bad := range []string{"a", "a b"} {
		if _, err := parseMetrics(strings.NewReader(bad)); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}

func TestQuote(t *testing.T) {
	if got, want := quote([]string{"a", "", "b c", "it's"}), `a '' 'b c' 'it'\''s'`; got != want {
		t.Errorf("quote = %s, want %s", got, want)
	}
}

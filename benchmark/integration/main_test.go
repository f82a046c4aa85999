// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/seekoci/seekoci/benchmark/internal/image"
	"github.com/seekoci/seekoci/benchmark/internal/node"
	"github.com/seekoci/seekoci/benchmark/internal/sandbox"
)

// builtContainerd is where the Makefile puts containerd 2.x.
const builtContainerd = "../../out/containerd2"

var (
	sandboxDir string // "" without a sandbox, for the reason noSandbox
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

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needSandbox(t *testing.T) {
	t.Helper()
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
}

// binaries builds soci and soci-snapshotter-grpc once and returns their directory.
func binaries(t *testing.T) string {
	t.Helper()
	dir, err := buildBinaries()
	must(t, err)
	return dir
}

var buildBinaries = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(sandboxDir, "bin")
	for _, name := range []string{"soci", "soci-snapshotter-grpc"} {
		c := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(dir, name), "github.com/seekoci/seekoci/cmd/"+name)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w: %s", name, err, out)
		}
	}
	return dir, nil
})

// torture makes the torture image once.
func torture(t *testing.T) *image.Image {
	t.Helper()
	img, err := makeTorture()
	must(t, err)
	return img
}

var makeTorture = sync.OnceValues(func() (*image.Image, error) {
	return image.Torture(context.Background(), filepath.Join(sandboxDir, "torture"))
})

// minimal makes a minimal image of its own and pushes it to ref.
func minimal(t *testing.T, ref, variant string) *image.Image {
	t.Helper()
	img, err := image.Minimal(t.Context(), t.TempDir(), variant)
	must(t, err)
	must(t, img.Push(t.Context(), ref))
	return img
}

// debian is Debian's containerd, or whichever 1.x is on PATH.
func debian(t *testing.T) node.Containerd {
	t.Helper()
	c, err := node.FindContainerd("")
	if err != nil {
		t.Skip(err)
	}
	return c
}

// built is the containerd 2.x built from source.
func built(t *testing.T) node.Containerd {
	t.Helper()
	c, err := node.FindContainerd(builtContainerd)
	if err != nil {
		t.Skip(err)
	}
	return c
}

// start starts a node of its own for the test, which stops it and checks that it stopped cleanly.
func start(t *testing.T, containerd node.Containerd, config string) *node.Node {
	t.Helper()
	dir, err := os.MkdirTemp(sandboxDir, "n")
	must(t, err)
	n, err := node.Start(t.Context(), node.Options{Dir: dir, Containerd: containerd, Namespace: sandbox.CgroupParent(sandboxDir), Bin: binaries(t), Config: config})
	must(t, err)
	t.Cleanup(func() {
		if err := n.Close(t.Context()); err != nil {
			t.Errorf("stop the node: %v", err)
		}
		if t.Failed() {
			t.Logf("the snapshotter said:\n%s", n.SnapshotterLogTail())
		}
		must(t, os.RemoveAll(dir))
	})
	return n
}

// soci runs soci, which must succeed.
func soci(t *testing.T, n *node.Node, args ...string) string {
	t.Helper()
	out, err := n.Soci(t.Context(), args...)
	must(t, err)
	return out
}

// ctr runs ctr, which must succeed.
func ctr(t *testing.T, n *node.Node, args ...string) string {
	t.Helper()
	out, err := n.Ctr(t.Context(), args...)
	must(t, err)
	return out
}

// run runs the image's program, which must succeed, and returns what it printed.
func run(t *testing.T, n *node.Node, ref, snapshotter string, args ...string) string {
	t.Helper()
	r, err := n.Run(t.Context(), node.Container{Image: ref, Snapshotter: snapshotter, Args: append([]string{image.Probe}, args...)})
	must(t, err)
	return r.Output
}

func metrics(t *testing.T, n *node.Node) node.Metrics {
	t.Helper()
	m, err := n.Metrics(t.Context())
	must(t, err)
	return m
}

// logged returns the lines of the snapshotter's log whose fields have all the values of want.
func logged(t *testing.T, n *node.Node, want map[string]string) []string {
	t.Helper()
	f, err := os.Open(n.SnapshotterLog())
	must(t, err)
	defer f.Close()
	var found []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
next:
	for lines.Scan() {
		var fields map[string]any
		if err := json.Unmarshal(lines.Bytes(), &fields); err != nil {
			t.Errorf("the snapshotter logs what is not JSON: %s", lines.Text())
			continue
		}
		for k, v := range want {
			if got, ok := fields[k]; !ok || fmt.Sprint(got) != v {
				continue next
			}
		}
		found = append(found, lines.Text())
	}
	must(t, lines.Err())
	return found
}

// wantLogged checks that exactly n lines were logged with the values of want.
func wantLogged(t *testing.T, on *node.Node, n int, want map[string]string) {
	t.Helper()
	if got := logged(t, on, want); len(got) != n {
		t.Errorf("%d log lines with %v, want %d:\n%s", len(got), want, n, strings.Join(got, "\n"))
	}
}

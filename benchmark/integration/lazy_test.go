// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/benchmark/internal/image"
	"github.com/seekoci/seekoci/benchmark/internal/node"
	"github.com/seekoci/seekoci/benchmark/internal/tree"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// server is a registry as the legs need it.
type server struct {
	host    string
	stats   func() registrytest.Stats // nil if it does not count
	stop    func()                    // answers nothing from now on
	started bool
}

// dockerRegistry starts Debian's docker-registry: no referrers API.
func dockerRegistry(t *testing.T) *server {
	t.Helper()
	r, err := node.StartDockerRegistry(t.Context(), filepath.Join(t.TempDir(), "registry"))
	if err != nil {
		t.Skip(err)
	}
	s := &server{host: r.Host, started: true}
	s.stop = func() {
		if s.started {
			s.started = false
			must(t, r.Close())
		}
	}
	t.Cleanup(s.stop)
	return s
}

// ownRegistry starts the registry with referrers.
func ownRegistry(t *testing.T) *server {
	t.Helper()
	var down atomic.Bool
	r := registrytest.New(registrytest.Options{Dir: t.TempDir(), Hook: func(w http.ResponseWriter, _ *registrytest.Request) bool {
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return down.Load()
	}})
	t.Cleanup(r.Close)
	return &server{host: r.Host(), stats: r.Stats, stop: func() { down.Store(true) }}
}

// onlyAsked is the configuration of a snapshotter that fetches what is asked for, and nothing else.
const onlyAsked = "[background_fetch]\ndisable = true\n"

// leg is one way from an image to a lazy container.
type leg struct {
	name       string
	containerd func(*testing.T) node.Containerd
	registry   func(*testing.T) *server
	// publish makes ref lazy, from the image that is there already as plain, on the build machine n, and returns the reference to pull.
	publish func(t *testing.T, n *node.Node, plain string) string
	pull    func(t *testing.T, n *node.Node, ref string)
}

// v1 indexes the image beside itself.
func v1(t *testing.T, n *node.Node, plain string) string {
	out := soci(t, n, "create", plain)
	if got := strings.Count(out, " -> ztoc "); got != 4 {
		t.Errorf("create made %d zTOCs, want 4:\n%s", got, out)
	}
	if !strings.Contains(out, "ztoc skipped - layer "+torture(t).Layers[image.SmallLayer].Digest.String()) {
		t.Errorf("create does not say that it skipped the small layer:\n%s", out)
	}
	soci(t, n, "push", "--plain-http", plain)
	return plain
}

// v2 makes a new image that names its index.
func v2(t *testing.T, n *node.Node, plain string) string {
	ref := plain + "-soci"
	soci(t, n, "convert", plain, ref)
	ctr(t, n, "image", "push", "--plain-http", ref)
	return ref
}

// v2Standalone does the same without containerd, on the image's layout.
func v2Standalone(t *testing.T, n *node.Node, plain string) string {
	ref := plain + "-soci"
	dir := filepath.Join(t.TempDir(), "converted")
	soci(t, n, "convert", "--standalone", "--format", "oci-dir", torture(t).Dir, dir)
	must(t, image.PushRoot(t.Context(), dir, ref))
	return ref
}

func rpull(t *testing.T, n *node.Node, ref string) {
	soci(t, n, "image", "rpull", "--plain-http", ref)
}

// transfer pulls as containerd 2.x does.
func transfer(t *testing.T, n *node.Node, ref string) {
	ctr(t, n, "image", "pull", "--plain-http", "--snapshotter", node.Soci, ref)
}

// TestLazy runs the whole path in every leg.
func TestLazy(t *testing.T) {
	needSandbox(t)
	for _, l := range []leg{
		{"containerd 1.6, rpull, v1 by fallback tag", debian, dockerRegistry, v1, rpull},
		{"containerd 1.6, rpull, v2", debian, ownRegistry, v2Standalone, rpull},
		{"containerd 2, transfer service, v2", built, ownRegistry, v2, transfer},
		{"containerd 2, rpull, v1 by referrer", built, ownRegistry, v1, rpull},
		{"containerd 2, transfer service, v1 by fallback tag", built, dockerRegistry, v1, transfer},
	} {
		t.Run(l.name, func(t *testing.T) { l.test(t) })
	}
}

func (l leg) test(t *testing.T) {
	containerd, registry := l.containerd(t), l.registry(t)
	plain := registry.host + "/team/torture:1"
	must(t, torture(t).Push(t.Context(), plain))

	var ref string
	t.Run("publish", func(t *testing.T) {
		n := start(t, containerd, "")
		ctr(t, n, "content", "fetch", "--plain-http", plain)
		ref = l.publish(t, n, plain)
	})
	if ref == "" {
		t.FailNow()
	}
	n := start(t, containerd, onlyAsked)
	empty, err := node.DiskUsage(n.SnapshotterRoot())
	must(t, err)

	l.pull(t, n, ref)
	t.Run("pull is lazy", func(t *testing.T) { pullIsLazy(t, n) })
	t.Run("first read", func(t *testing.T) { firstRead(t, n, ref) })
	t.Run("concurrent first readers", func(t *testing.T) { concurrentReaders(t, n, ref, registry) })
	t.Run("same tree", func(t *testing.T) { sameTree(t, n, ref, plain) })
	t.Run("restart without registry", func(t *testing.T) { restart(t, n, ref, registry) })
	t.Run("removal", func(t *testing.T) { removal(t, n, empty) })
}

// pullIsLazy checks what the snapshotter has decided and that nothing large was fetched.
func pullIsLazy(t *testing.T, n *node.Node) {
	img, m := torture(t), metrics(t, n)
	if lazy, local, fallback := m.Decisions("lazy"), m.Decisions("local"), m.Decisions("fallback"); lazy != 4 || local != 1 || fallback != 0 {
		t.Errorf("%d layers lazy, %d made locally, %d left to containerd, want 4, 1 and 0", lazy, local, fallback)
	}
	content := ctr(t, n, "content", "list", "--quiet")
	for i, l := range img.Layers {
		if strings.Contains(content, l.Digest.String()) {
			t.Errorf("layer %d was pulled into containerd's content store", i)
		}
		if i == image.SmallLayer {
			wantLogged(t, n, 1, map[string]string{"layer": l.Digest.String(), "local-snapshot-prepared": "true"})
			continue
		}
		wantLogged(t, n, 1, map[string]string{"layer": l.Digest.String(), "remote-snapshot-prepared": "true"})
	}
	if got := m.BytesFetched(); got != 0 {
		t.Errorf("%d bytes of lazy layers were fetched before any file was read", got)
	}
}

// firstRead runs a container that reads one small file: some spans are fetched, most are not.
func firstRead(t *testing.T, n *node.Node, ref string) {
	out := run(t, n, ref, node.Soci, "read", "1", image.Plain1)
	if !strings.HasSuffix(out, " "+image.Plain1+"\n") {
		t.Errorf("the container prints %q", out)
	}
	m := metrics(t, n)
	if got, all := m.BytesFetched(), m.Bytes(); got == 0 || got > all/2 {
		t.Errorf("%d of %d bytes fetched for one small file and the program", got, all)
	}
	if got, all := m.SpansFetched(), m.Spans(); got == 0 || got > all/2 {
		t.Errorf("%d of %d spans fetched for one small file and the program", got, all)
	}
}

// concurrentReaders reads cold files by many readers in several containers at once: each span is fetched once.
func concurrentReaders(t *testing.T, n *node.Node, ref string, registry *server) {
	files := []string{image.BigGzip, image.BigMany, image.BigPlain}
	var before registrytest.Stats
	if registry.stats != nil {
		before = registry.stats()
	}
	first := metrics(t, n)
	outs := make([]string, 3)
	var g errgroup.Group
	for i := range outs {
		g.Go(func() error {
			r, err := n.Run(t.Context(), node.Container{Image: ref, Snapshotter: node.Soci, Args: append([]string{image.Probe, "read", "8"}, files...)})
			outs[i] = r.Output
			return err
		})
	}
	must(t, g.Wait())
	if outs[0] != outs[1] || outs[0] != outs[2] || strings.Count(outs[0], "\n") != len(files) {
		t.Errorf("three containers read different things: %q", outs)
	}
	m := metrics(t, n)
	if got, all := m.SpansFetched(), m.Spans(); got > all {
		t.Errorf("%d spans fetched, there are only %d", got, all)
	}
	if registry.stats == nil {
		return
	}
	// What left the registry is what the snapshotter says it fetched, and not more.
	sent := registry.stats().Range.Bytes - before.Range.Bytes
	if got := m.BytesFetched() - first.BytesFetched(); sent != got {
		t.Errorf("the registry sent %d bytes of ranges, the snapshotter counts %d", sent, got)
	}
}

// sameTree compares the lazy image with the unpacked one: from outside, all of it, and from within a container.
func sameTree(t *testing.T, n *node.Node, ref, plain string) {
	// The unpacked one comes last: it brings the layers into the content store.
	var lazy, unpacked strings.Builder
	must(t, n.View(t.Context(), ref, node.Soci, func(dir string) error { return tree.Write(&lazy, dir) }))
	within := run(t, n, ref, node.Soci, "tree")
	ctr(t, n, "image", "pull", "--plain-http", "--snapshotter", node.Overlayfs, plain)
	must(t, n.View(t.Context(), plain, node.Overlayfs, func(dir string) error { return tree.Write(&unpacked, dir) }))
	if d := tree.Diff(unpacked.String(), lazy.String(), 20); len(d) > 0 {
		t.Errorf("unpacked (-) and lazy (+) image differ:\n%s", strings.Join(d, "\n"))
	}
	for _, want := range []string{`"usr/bin/ping" mode=100755`, `security.capability=`, `"data/directory" mode=100644`, `"opt/many/00" mode=40755`, `same="usr/bin/mixed"`, `rdev=1:3`} {
		if !strings.Contains(unpacked.String(), want) {
			t.Errorf("the unpacked tree has no %s: the comparison would prove little", want)
		}
	}
	if strings.Contains(lazy.String(), `"data/whiteout"`) {
		t.Errorf("%s is seen, it was whited out", image.Hidden)
	}
	if d := tree.Diff(run(t, n, plain, node.Overlayfs, "tree"), within, 20); len(d) > 0 {
		t.Errorf("containers see unpacked (-) and lazy (+) image differently:\n%s", strings.Join(d, "\n"))
	}
	if m := metrics(t, n); m.SpansFetched() != m.Spans() {
		t.Errorf("%d of %d spans fetched after everything was read", m.SpansFetched(), m.Spans())
	}
}

// restart stops the snapshotter and the registry: the new snapshotter serves what was read before, to old snapshots and new ones.
func restart(t *testing.T, n *node.Node, ref string, registry *server) {
	args := []string{"read", "2", image.BigGzip, image.BigMany, image.BigPlain, image.Small, image.Plain1}
	before := run(t, n, ref, node.Soci, args...)
	must(t, n.StopSnapshotter(unix.SIGTERM))
	if left, err := node.Mounts(n.SnapshotterRoot()); err != nil || len(left) != 1 {
		t.Errorf("the stopped snapshotter leaves the mounts %q, %v, want its file system alone", left, err)
	}
	registry.stop()
	must(t, n.StartSnapshotter(t.Context()))
	if after := run(t, n, ref, node.Soci, args...); after != before {
		t.Errorf("before the restart %q, after it %q", before, after)
	}
	if got := metrics(t, n).BytesFetched(); got != 0 {
		t.Errorf("%d bytes fetched without a registry", got)
	}
}

// removal removes the images: the space on disk comes back.
func removal(t *testing.T, n *node.Node, empty int64) {
	full, err := node.DiskUsage(n.SnapshotterRoot())
	must(t, err)
	if full < empty+80<<20 {
		t.Errorf("the snapshotter uses %d bytes, %d of them when empty: less than the files that were read", full, empty)
	}
	refs := strings.Fields(ctr(t, n, "image", "list", "--quiet"))
	ctr(t, n, append([]string{"image", "remove", "--sync"}, refs...)...)
	const slack = 4 << 20 // databases
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for used := full; used > empty+slack; <-tick.C {
		if used, err = node.DiskUsage(n.SnapshotterRoot()); err != nil || time.Now().After(deadline) {
			t.Fatalf("the snapshotter still uses %d bytes, %d when empty (%v):\n%s", used, empty, err, files(n.SnapshotterRoot()))
		}
	}
	ctr(t, n, "snapshots", "--snapshotter", node.Soci, "list")
}

// files lists the large files below dir.
func files(dir string) string {
	var b strings.Builder
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil && info.Size() > 1<<20 {
				fmt.Fprintf(&b, "%d %s\n", info.Size(), path)
			}
		}
		return nil
	})
	return b.String()
}

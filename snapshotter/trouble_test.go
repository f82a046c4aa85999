// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bufio"
	"net/http"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// pullImage prepares all layers of i, which must all become snapshots.
func pullImage(t testing.TB, s *Snapshotter, i *testImage) {
	t.Helper()
	for n := range i.chains {
		_, err := s.Prepare(testContext(t), "extract-"+i.chains[n].String(), i.parent(n), snapshots.WithLabels(i.labels(n)))
		if !errdefs.IsAlreadyExists(err) {
			t.Fatalf("prepare layer %d of %s: %v", n, i.name, err)
		}
	}
}

// run mounts a container's root file system above parent.
func run(t testing.TB, s *Snapshotter, key, parent string) string {
	t.Helper()
	dir := t.TempDir()
	check(t, mount.All(must(s.Prepare(testContext(t), key, parent))(t), dir))
	t.Cleanup(func() { check(t, mount.UnmountAll(dir, 0)) })
	return dir
}

// sums returns the digests of all files below dir, read by another process.
func sums(t testing.TB, dir string) string {
	t.Helper()
	// Not with Cmd.Dir: its chdir happens while this process, which serves dir, is held up.
	const script = `cd "$1" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum`
	out, err := exec.Command("sh", "-c", script, "sh", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("read %s: %v\n%s", dir, err, out)
	}
	return string(out)
}

// TestRegistryTrouble reads from a container while its registry is difficult.
func TestRegistryTrouble(t *testing.T) {
	needFUSE(t)
	good := newImage(t, newMemory(), "", 1, 2).build(t, -1)
	want := sums(t, unpackAll(t, good))
	for _, c := range []struct {
		name string
		opts registrytest.Options
		hook func(w http.ResponseWriter, reg *registrytest.Server, n int64) bool // of the n-th request for a range
	}{
		{"ranges are ignored", registrytest.Options{NoRange: true}, nil},
		{"redirects expire", registrytest.Options{Redirect: true}, func(_ http.ResponseWriter, reg *registrytest.Server, n int64) bool {
			if n%3 == 0 {
				reg.ExpireRedirects()
			}
			return false
		}},
		{"tokens expire", registrytest.Options{Auth: registrytest.AuthBearer}, func(_ http.ResponseWriter, reg *registrytest.Server, n int64) bool {
			if n%3 == 1 {
				reg.ExpireTokens()
			}
			return false
		}},
		{"answers are cut", registrytest.Options{}, func(_ http.ResponseWriter, reg *registrytest.Server, n int64) bool {
			if n == 1 {
				reg.Inject(registrytest.Fault{Kind: registrytest.KindRange, Truncate: 70 << 10})
			}
			return false
		}},
		{"every other answer is 503", registrytest.Options{}, func(w http.ResponseWriter, _ *registrytest.Server, n int64) bool {
			if n%2 == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return n%2 == 1
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var reg *registrytest.Server
			var ranges atomic.Int64
			c.opts.Hook = func(w http.ResponseWriter, r *registrytest.Request) bool {
				if r.Kind != registrytest.KindRange {
					return false
				}
				n := ranges.Add(1)
				return c.hook != nil && c.hook(w, reg, n)
			}
			reg = registrytest.New(c.opts)
			defer reg.Close()
			i := good.clone()
			i.push(t, reg, "library/app")
			s := newPatient(t, t.TempDir(), registry.Retry{MinWait: time.Millisecond})
			pullImage(t, s, i)
			if n := ranges.Load(); n != 0 {
				t.Errorf("%d requests for ranges before anything was read", n)
			}
			if got := sums(t, run(t, s, "container", i.top())); got != want {
				t.Errorf("container reads\n%swant\n%s", got, want)
			}
			least := int64(4)
			if c.opts.NoRange {
				least = 1 // a layer comes whole
			}
			if n := ranges.Load(); n < least {
				t.Errorf("only %d requests for ranges", n)
			}
		})
	}
}

// TestKilledReader holds that when a process that waits for a registry is killed,
// the registry sees the request go; and that Close does not wait for a registry.
func TestKilledReader(t *testing.T) {
	needFUSE(t)
	var armed atomic.Bool
	asked, left := make(chan struct{}, 100), make(chan struct{}, 100)
	reg := registrytest.New(registrytest.Options{Hook: func(_ http.ResponseWriter, r *registrytest.Request) bool {
		if r.Kind == registrytest.KindRange && armed.Load() {
			asked <- struct{}{}
			<-r.Context().Done()
			left <- struct{}{}
		}
		return false
	}})
	defer reg.Close()
	i := newImage(t, newMemory(), "", 1).build(t, -1)
	i.push(t, reg, "library/app")
	s := newPatient(t, t.TempDir(), registry.Retry{})
	pullImage(t, s, i)
	dir := run(t, s, "container", i.top())
	armed.Store(true)
	direct := exec.Command("dd", "if="+filepath.Join(dir, "usr/share/text"), "of=/dev/null", "bs=4096", "count=1", "iflag=direct")
	check(t, direct.Start())
	<-asked
	check(t, direct.Process.Kill())
	<-left
	if err := direct.Wait(); err == nil {
		t.Error("the reader was not killed")
	}

	buffered := exec.Command("cat", filepath.Join(dir, "usr/share/text"))
	stderr := bufio.NewReader(must(buffered.StderrPipe())(t))
	check(t, buffered.Start())
	<-asked
	begin := time.Now()
	check(t, s.Close())
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("Close took %v", d)
	}
	<-left
	if line, err := stderr.ReadString('\n'); err != nil {
		t.Errorf("the reader says %q, %v", line, err)
	}
	if err := buffered.Wait(); err == nil {
		t.Error("the read was answered")
	}
}

// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/registry/registrytest"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// multiply makes n lazy snapshots of other layers in a root where nobody runs, each with the
// state that the layer key has: what the disk looks like after that many pulls.
func multiply(t *testing.T, root, key string, n int) {
	t.Helper()
	states := stateDir(filepath.Join(root, "soci", "layers"))
	st, toc, err := states.load(key)
	check(t, err)
	ms := must(openMetadata(t.Context(), root, dbLockTimeout))(t)
	check(t, ms.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		for i := range n {
			st.Layer, st.Slot = digest.FromString(fmt.Sprint(i)), uint32(10_000+i)
			labels := map[string]string{
				labelRemote: labelRemoteValue, labelZTOC: st.ZTOC.String(),
				snapshots.LabelSnapshotRef:             st.Layer.String(),
				snapshotters.TargetRefLabel:            st.Images[0],
				snapshotters.TargetManifestDigestLabel: st.Layer.String(),
				snapshotters.TargetLayerDigestLabel:    st.Layer.String(),
			}
			active := fmt.Sprint("active-", i)
			s, err := storage.CreateSnapshot(ctx, snapshots.KindActive, active, "", snapshots.WithLabels(labels))
			if err == nil {
				_, err = storage.CommitActive(ctx, active, st.Layer.String(), snapshots.Usage{}, snapshots.WithLabels(labels))
			}
			err = errors.Join(err, os.MkdirAll(filepath.Join(root, "snapshotter", "snapshots", s.ID, "fs"), 0o755), states.save(st, toc))
			if err != nil {
				return err
			}
		}
		return nil
	}))
	check(t, errors.Join(ms.Close(), os.WriteFile(filepath.Join(root, "soci", "fs", "slots"), []byte("20000\n"), 0o600)))
}

// TestThousands has a node come up with three thousand lazy layers, without a registry: they
// are restored in parallel, with two descriptors each, and all of them are there.
func TestThousands(t *testing.T) {
	needFUSE(t)
	const layers = 3000
	var limit unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if limit.Max < 3*layers {
		t.Skipf("needs %d descriptors, may have %d", 3*layers, limit.Max)
	}
	reg := registrytest.New(registrytest.Options{})
	defer reg.Close()
	root := quickDir(t)
	i := newImageOf(t, newMemory(), "", []ztoctest.File{testDir("d/", 0o755, 0), testFile("d/file")}).build(t, -1)
	i.push(t, reg, "library/app")
	s := newReal(t, root)
	pullImage(t, s, i)
	want := sums(t, unpackAll(t, i))
	if got := sums(t, run(t, s, "container", i.top())); got != want {
		t.Errorf("container reads\n%swant\n%s", got, want)
	}
	check(t, s.Remove(testContext(t), "container"))
	check(t, s.Close())
	reg.Close()
	multiply(t, root, i.key(0), layers)

	fds := func() int { return len(must(os.ReadDir("/proc/self/fd"))(t)) }
	before, begin := fds(), time.Now()
	s = newReal(t, root)
	took := time.Since(begin)
	t.Logf("%d layers restored in %v, with %d descriptors", layers, took, fds()-before)
	if n := len(s.Layers()); n != layers+1 {
		t.Errorf("%d layers are served, want %d", n, layers+1)
	}
	if n := fds() - before; n > 2*layers+100 {
		t.Errorf("%d descriptors for %d layers", n, layers)
	}
	if took > 2*time.Minute { // seconds, were it not for the race detector and others on the machine
		t.Errorf("it took %v", took)
	}
	listed := must(exec.Command("ls", mountPoint(root)).Output())(t)
	if n := strings.Count(string(listed), "\n"); n != layers+1 {
		t.Errorf("%d layers are listed", n)
	}
	if got := sums(t, run(t, s, "again", i.top())); got != want {
		t.Errorf("container reads\n%swant\n%s", got, want)
	}
}

// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"os"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"

	"github.com/seekoci/seekoci/registry"
)

// suiteName is what the suite calls the snapshotter: it asks less of those that
// it knows to be made of overlayfs, which cannot rename a lower directory.
const suiteName = "overlayfs"

// TestSuite is containerd's conformance suite, over a real FUSE mount.
func TestSuite(t *testing.T) {
	needFUSE(t)
	t.Setenv("TMPDIR", quickDir(t))
	client := must(registry.NewClient(registry.Options{}))(t)
	testsuite.SnapshotterSuite(t, suiteName, func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		s, err := New(ctx, Options{Root: root, Registry: client, Log: testLog(t)})
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	})
}

func needFUSE(t testing.TB) {
	t.Helper()
	needRoot(t)
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs FUSE: %v", err)
	}
	f.Close()
}

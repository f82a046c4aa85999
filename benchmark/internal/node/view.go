// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sys/unix"
)

// View mounts the image's file system as the snapshotter has it, read-only, and passes its directory to see.
func (n *Node) View(ctx context.Context, ref, snapshotter string, see func(dir string) error) (err error) {
	ctx = namespaces.WithNamespace(ctx, n.Namespace)
	defer func() {
		if err != nil {
			err = fmt.Errorf("view %s in %s: %w", ref, snapshotter, err)
		}
	}()
	img, err := n.Client.GetImage(ctx, ref)
	if err != nil {
		return err
	}
	diffIDs, err := img.RootFS(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(n.Dir, "view")
	if err != nil {
		return err
	}
	s := n.Client.SnapshotService(snapshotter)
	key := filepath.Base(dir)
	// Without the label containerd's garbage collector would take it away.
	keep := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)})
	mounts, err := s.View(ctx, key, identity.ChainID(diffIDs).String(), keep)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Remove(ctx, key)) }()
	if err := mount.All(mounts, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mount.UnmountAll(dir, unix.UMOUNT_NOFOLLOW), os.Remove(dir)) }()
	return see(dir)
}

// DiskUsage is the space that the files below dir take, in bytes, other mounts excepted.
func DiskUsage(dir string) (int64, error) {
	var root unix.Stat_t
	if err := unix.Lstat(dir, &root); err != nil {
		return 0, fmt.Errorf("disk usage of %s: %w", dir, err)
	}
	var sum int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		if st.Dev != root.Dev {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		sum += st.Blocks * 512
		return nil
	})
	return sum, err
}

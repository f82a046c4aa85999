// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/fs"
)

// mountFS mounts the file system at dir, after what a daemon that died left there, or
// takes that over.
func mountFS(dir string, opts Options) (*fs.FS, error) {
	if opts.FS.Holder == nil {
		if err := detachAll(dir); err != nil {
			return nil, err
		}
	}
	o := opts.FS
	o.Log = opts.Log
	o.StateDir = filepath.Join(opts.Root, "soci", "fs")
	var err error
	if o.UserXattr, err = overlayutils.NeedsUserXAttr(filepath.Join(opts.Root, "snapshotter")); err != nil {
		opts.Log.Warn("find out which xattrs overlayfs wants", "userxattr", o.UserXattr, "error", err)
	}
	// Not dir: what is mounted there may not answer yet.
	for _, d := range []string{filepath.Dir(dir), o.StateDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	return fs.Mount(dir, o)
}

// mountPoint is where the snapshotter at root has its file system.
func mountPoint(root string) string { return filepath.Join(root, "snapshotter", "mnt") }

// Unmount takes away the mount that the snapshotter at root has left, which must not
// run, and has release let go of it. What uses the mount fails from then on.
func Unmount(ctx context.Context, root string, release func() error) error {
	if _, err := os.Stat(filepath.Join(root, "snapshotter")); err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	ms, err := openMetadata(ctx, root, time.Millisecond)
	if err != nil {
		return fmt.Errorf("unmount %s: %w", mountPoint(root), err)
	}
	if err := errors.Join(release(), detachAll(mountPoint(root)), ms.Close()); err != nil {
		return fmt.Errorf("unmount %s: %w", mountPoint(root), err)
	}
	return nil
}

// maxMounts is how many mounts may be on one directory.
const maxMounts = 64

// detachAll takes away every mount on dir, at once, whether it is in use, dead, or a
// file system that nobody serves and that would not answer.
func detachAll(dir string) error {
	for range maxMounts {
		err := unix.Unmount(dir, unix.MNT_DETACH|unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	return fmt.Errorf("unmount %s: more than %d mounts", dir, maxMounts)
}

// unmountAll takes away every mount on dir, dead ones too. Nothing mounted, or
// no such directory, is fine.
func unmountAll(dir string) error {
	err := mount.UnmountAll(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

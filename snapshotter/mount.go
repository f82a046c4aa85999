// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/fs"
)

// mountFS mounts the file system at dir, after what a daemon that died left there, or
// takes that over.
func mountFS(dir string, opts Options) (*fs.FS, error) {
	if opts.FS.Holder == nil {
		if err := unmountAll(dir); err != nil {
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

// unmountAll takes away every mount on dir, dead ones too. Nothing mounted, or
// no such directory, is fine.
func unmountAll(dir string) error {
	err := mount.UnmountAll(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

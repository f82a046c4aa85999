// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	fsSource      = "soci"           // what findmnt --source finds
	fsType        = "fuse.rawBridge" // the incumbent's
	maxBackground = 1024
	maxRead       = 512 << 10
	staleMounts   = 64 // that may be stacked on the mount point
	unmountWait   = 2 * time.Second
)

// mount mounts f and starts serving it.
func (f *FS) mount() error {
	if err := os.MkdirAll(f.dir, 0o700); err != nil && !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := f.clearStale(); err != nil {
		return err
	}
	// O_CLOEXEC: a child that held the descriptor would keep the mount alive, and
	// its users waiting, after our death.
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/fuse: %w", err)
	}
	opts := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,max_read=%d,allow_other,default_permissions",
		fd, os.Geteuid(), os.Getegid(), maxRead)
	if err := unix.Mount(fsSource, f.dir, fsType, unix.MS_RDONLY, opts); err != nil {
		unix.Close(fd)
		return fmt.Errorf("mount(2): %w", err)
	}
	f.server, err = newServer(f, fd)
	if err != nil {
		unix.Close(fd)
		return errors.Join(err, unix.Unmount(f.dir, unix.MNT_DETACH))
	}
	go func() {
		defer close(f.served)
		f.server.serve()
	}()
	if f.aheadPath, err = readAheadPath(f.dir); err != nil {
		f.opts.Log.Warn("readahead not set, large reads will be slower", "mount", f.dir, "error", err)
	}
	f.setReadAhead()
	return nil
}

func (f *FS) mountOptions() *fuse.MountOptions {
	return &fuse.MountOptions{
		AllowOther:           true,
		FsName:               fsSource,
		MaxBackground:        maxBackground,
		MaxWrite:             maxRead,
		EnableSymlinkCaching: true,
		IDMappedMount:        true,
		DisableSplice:        true, // not through go-fuse
		// It would count as a level of stacking: no overlay on a container's overlay.
		DisabledCapabilities: fuse.CAP_PASSTHROUGH,
		Debug:                f.opts.Debug,
		Logger:               slog.NewLogLogger(f.opts.Log.Handler(), slog.LevelDebug),
		PanicHandler:         f.panicked,
	}
}

// panicked keeps a request that panics from ending the daemon.
func (f *FS) panicked(v any) fuse.Status {
	f.stats.panics.Add(1)
	f.opts.Log.Error("FUSE request panicked", "panic", v, "stack", string(debug.Stack()))
	return fuse.EIO
}

// clearStale detaches what a killed process left mounted on f.dir. Such a mount
// answers everything with ENOTCONN.
func (f *FS) clearStale() error {
	for range staleMounts {
		var st unix.Statfs_t
		err := unix.Statfs(f.dir, &st)
		if errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) {
			f.opts.Log.Info("detaching the mount of a process that is gone", "mount", f.dir)
			if err := unix.Unmount(f.dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				return fmt.Errorf("detach stale mount: %w", err)
			}
			continue
		}
		if err != nil {
			return err
		}
		var stx unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, f.dir, unix.AT_STATX_DONT_SYNC, 0, &stx); err != nil {
			return err
		}
		if st.Type == unix.FUSE_SUPER_MAGIC && stx.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
			return ErrMounted
		}
		return nil
	}
	return errors.New("too many stale mounts")
}

// unmount takes the mount away and waits for the server. MNT_FORCE ends the
// connection: overlays that still use layers keep the file system alive, but nobody
// will serve it any more.
func (f *FS) unmount() error {
	err := unix.Unmount(f.dir, unix.MNT_FORCE|unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return f.waitUnmounted()
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", f.dir, err)
	}
	<-f.served
	return nil
}

// waitUnmounted waits for the server after somebody else has taken the mount away.
// It ends when the last user of the file system has gone, which may be never.
func (f *FS) waitUnmounted() error {
	if !within(unmountWait, f.served) {
		return fmt.Errorf("unmount %s: it is not mounted any more, but in use", f.dir)
	}
	return nil
}

// within waits at most d for done, and reports whether it is.
func within(d time.Duration, done <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

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

// mount takes over the mount, or makes one.
func (f *FS) mount() error {
	if f.opts.Holder != nil {
		if ok, err := f.takeOver(); ok || err != nil {
			return err
		}
	}
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
	r := &record{layout: nodeLayout, maxRead: maxRead}
	f.server, err = newServer(f, fd, r)
	if err != nil {
		unix.Close(fd)
		return errors.Join(err, unix.Unmount(f.dir, unix.MNT_DETACH))
	}
	f.record = r
	f.held = f.hold()
	f.findReadAhead()
	return nil
}

// hold has the holder keep the mount that this process has made, and reports whether it
// does. Without that, all works until this process ends.
func (f *FS) hold() bool {
	r := f.record
	if f.opts.Holder == nil || r == nil {
		return false
	}
	err := errNoResend
	if agreed(r.reply)&fuse.CAP_HAS_RESEND != 0 {
		var m mounted
		if m, _, err = mountedOn(f.dir); err == nil {
			r.dev = m.dev
			err = f.opts.Holder.Hold(f.server.dev, r.marshal())
		}
	}
	if err != nil {
		f.opts.Log.Warn("mount is not held: what uses it will not survive this process", "mount", f.dir, "error", err)
	}
	return err == nil
}

// errNoResend says that what a killed process was serving would never be answered.
var errNoResend = errors.New("the kernel does not deliver requests again (Linux 6.9 does)")

// takeOver takes over the mount that the holder has, if it is the one on f.dir.
// Whatever else is mounted there is detached: nobody serves it.
func (f *FS) takeOver() (bool, error) {
	var why error // of the mount that cannot be taken over
	for range staleMounts {
		m, ok, err := mountedOn(f.dir)
		if err != nil {
			return false, err
		}
		if !ok {
			return false, f.findLost()
		}
		var r *record
		fd, err := f.opts.Holder.Held(func(state []byte) bool {
			found, err := parseRecord(state)
			if err != nil || found.dev != m.dev {
				return false
			}
			r = found
			return true
		})
		if err != nil {
			return false, err
		}
		if fd >= 0 {
			if why = f.resume(fd, r); why == nil {
				return true, nil
			}
			unix.Close(fd)
		}
		f.opts.Log.Warn("detaching a mount that nobody serves: what uses it has lost it", "mount", f.dir, "type", m.fsType, "held", fd >= 0, "error", why)
		f.origin = Replaced
		if err := f.opts.Holder.Drop(); err != nil {
			f.opts.Log.Warn("mount not let go of", "mount", f.dir, "error", err)
		}
		if err := unix.Unmount(f.dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return false, fmt.Errorf("detach stale mount: %w", err)
		}
	}
	return false, errors.New("too many stale mounts")
}

// findLost finds out whether the holder has a mount that is mounted nowhere any more, and
// still in use: by containers that nobody will serve.
func (f *FS) findLost() error {
	fd, err := f.opts.Holder.Held(func(state []byte) bool {
		_, err := parseRecord(state)
		return err == nil
	})
	if err != nil || fd < 0 {
		return err
	}
	gone, err := ended(fd)
	if err != nil || !gone {
		f.opts.Log.Warn("letting go of a mount that was taken away: what uses it has lost it", "mount", f.dir, "error", err)
		f.origin = Replaced
	}
	unix.Close(fd)
	if err := f.opts.Holder.Drop(); err != nil {
		f.opts.Log.Warn("mount not let go of", "mount", f.dir, "error", err)
	}
	return nil
}

// resume serves the mount with the descriptor fd, once begun. Nothing that is done until
// then may need an answer of the file system.
func (f *FS) resume(fd int, r *record) error {
	if err := r.serves(); err != nil {
		return err
	}
	if gone, err := ended(fd); gone || err != nil {
		return errors.Join(errors.New("its connection to the kernel has ended"), err)
	}
	// Who had it before may have left it so.
	if err := unix.SetNonblock(fd, false); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	s, err := resumeServer(f, fd, r)
	if err != nil {
		return err
	}
	f.server, f.origin, f.held = s, Resumed, true
	f.findReadAhead()
	return nil
}

// ended reports whether a connection to the kernel is one no more.
func ended(fd int) (bool, error) {
	p := []unix.PollFd{{Fd: int32(fd)}}
	for {
		_, err := unix.Poll(p, 0)
		if err == unix.EINTR {
			continue
		}
		return p[0].Revents&unix.POLLERR != 0, os.NewSyscallError("poll", err)
	}
}

// findReadAhead finds out where the kernel has its readahead.
func (f *FS) findReadAhead() {
	var err error
	if f.aheadPath, err = readAheadPath(f.dir); err != nil {
		f.opts.Log.Warn("readahead not set, large reads will be slower", "mount", f.dir, "error", err)
	}
	f.setReadAhead()
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
		ExtraCapabilities:    fuse.CAP_HAS_RESEND,
		Debug:                f.opts.Debug,
		Logger:               slog.NewLogLogger(f.opts.Log.Handler(), slog.LevelDebug),
		PanicHandler:         f.panicked,
	}
}

// maxPanics bounds the requests of a process that may panic. Each costs it the memory of a
// worker, and who knows what else.
const maxPanics = 256

// panicked keeps a request that panics from ending the daemon, up to maxPanics. Then it is
// better off with a new one, which serves what this one does not.
func (f *FS) panicked(v any) fuse.Status {
	if f.stats.panics.Add(1) > maxPanics {
		panic(v)
	}
	if held, ok := f.panics.log(time.Now()); ok {
		f.opts.Log.Error("FUSE request panicked", "panic", v, "stack", string(debug.Stack()), "held_back", held)
	}
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

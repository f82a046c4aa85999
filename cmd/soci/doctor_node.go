// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of the disk of the root: below the first, layers are lost to ENOSPC at any moment.
const (
	freeFail = 64 << 20
	freeWarn = 1 << 30
	inodeMin = 1 << 10
)

// node looks at what the kernel and the host have.
func (d *doctor) node(context.Context) []finding {
	return []finding{d.kernel(), fuseDevice("/dev/fuse"), d.overlay(), decompressors(exec.LookPath)}
}

func (d *doctor) kernel() finding {
	p, err := os.ReadFile(filepath.Join(d.proc, "sys/kernel/osrelease"))
	if err != nil {
		return unseen("kernel", err)
	}
	return kernelRelease(strings.TrimSpace(string(p)))
}

func kernelRelease(release string) finding {
	major, minor, isVersion := versionNumbers(release)
	switch {
	case !isVersion:
		return bad(statusUnseen, "kernel", "", "release %q is no version", release)
	case major < 6 || major == 6 && minor < 9:
		return bad(statusWarn, "kernel", "use Linux 6.9 or newer",
			"%s does not deliver FUSE requests again: containers lose their lazy layers when the daemon ends", release)
	}
	return ok("kernel", "%s delivers FUSE requests again: containers survive the daemon's end", release)
}

// versionNumbers returns the first two numbers of a version such as v2.1.3 or 6.9.0-rc1.
func versionNumbers(s string) (major, minor int, isVersion bool) {
	n, _ := fmt.Sscanf(strings.TrimPrefix(s, "v"), "%d.%d", &major, &minor)
	return major, minor, n == 2
}

// fuseDevice opens the device, which by itself does nothing.
func fuseDevice(path string) finding {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case err == nil:
		f.Close()
		return ok("fuse", "%s can be opened; fusermount is not needed", path)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return bad(statusFail, "fuse", "modprobe fuse", "%v", err)
	case os.Geteuid() == 0:
		return bad(statusFail, "fuse", "allow the device to this cgroup", "%v", err)
	}
	return unseen("fuse", err)
}

func (d *doctor) overlay() finding {
	p, err := os.ReadFile(filepath.Join(d.proc, "filesystems"))
	if err != nil {
		return unseen("overlayfs", err)
	}
	if !slices.Contains(strings.Fields(string(p)), "overlay") {
		return bad(statusWarn, "overlayfs", "modprobe overlay", "the kernel has not loaded it; it may do so when asked")
	}
	return ok("overlayfs", "the kernel has it")
}

// decompressors looks for what containerd prefers to its own.
func decompressors(look func(string) (string, error)) finding {
	for _, name := range []string{"igzip", "unpigz"} { // in containerd's order
		if path, err := look(name); err == nil {
			return ok("decompressors", "%s: containerd unpacks with it what is not lazy", path)
		}
	}
	f := ok("decompressors", "neither igzip nor unpigz: what is not lazy is unpacked more slowly")
	f.Do = "install isal or pigz"
	return f
}

// disk looks at the root directory and the disk below it.
func (d *doctor) disk(context.Context) []finding {
	var st unix.Statfs_t
	if err := unix.Statfs(d.root, &st); err != nil {
		err = &os.PathError{Op: "statfs", Path: d.root, Err: err}
		if errors.Is(err, fs.ErrNotExist) {
			return []finding{bad(statusWarn, "root", "start soci-snapshotter-grpc, or name its directory with --root", "%v", err)}
		}
		return []finding{unseen("root", err)}
	}
	return []finding{space(d.root, st)}
}

func space(root string, st unix.Statfs_t) finding {
	free, total := float64(st.Bavail)*float64(st.Bsize), float64(st.Blocks)*float64(st.Bsize)
	seen := fmt.Sprintf("%s: %.1f of %.1f GiB free", root, free/(1<<30), total/(1<<30))
	inodes := uint64(math.MaxUint64)
	if st.Files > 0 { // otherwise the file system makes them as it goes
		inodes = st.Ffree
		seen += fmt.Sprintf(", %d of %d inodes", st.Ffree, st.Files)
	}
	const do = "remove images, or give it a larger disk"
	switch {
	case st.Flags&unix.ST_RDONLY != 0:
		return bad(statusFail, "root", "mount it writable", "%s, read-only", seen)
	case free < freeFail || inodes == 0:
		return bad(statusFail, "root", do, "%s", seen)
	case free < freeWarn || inodes < inodeMin:
		return bad(statusWarn, "root", do, "%s", seen)
	}
	return ok("root", "%s", seen)
}

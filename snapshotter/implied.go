// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	continuity "github.com/containerd/continuity/fs"
	"github.com/containerd/continuity/sysx"
	"golang.org/x/sys/unix"
)

// checkImplied checks the directories that a layer only implies (fs.Implied)
// against the layers below, given as directories, the nearest first. Unpacked,
// such a directory takes over what it is there; served lazily it is 0755 and
// root's. The error names one for which that makes a difference.
func checkImplied(ctx context.Context, dirs, below []string) error {
	missing := "\x00" // the last one that no layer below has: nor what is in it
	for _, dir := range dirs {
		if strings.HasPrefix(dir, missing+"/") {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		path, err := lookBelow(below, dir)
		switch {
		case errors.Is(err, os.ErrNotExist):
			missing = dir
			continue
		case err != nil:
			return fmt.Errorf("directory %q that the layer only implies: %w", dir, err)
		}
		if path == "" {
			continue
		}
		what, err := special(path)
		if err != nil {
			return fmt.Errorf("directory %q that the layer only implies: %w", dir, err)
		}
		if what != "" {
			return fmt.Errorf("directory %q, which the layer only implies, is %s below it", dir, what)
		}
	}
	return nil
}

// lookBelow returns where dir is in the layers below, "" if it is not a
// directory there, as containerd's unpack looks.
func lookBelow(below []string, dir string) (string, error) {
	for _, b := range below {
		path, err := continuity.RootPath(b, dir)
		if err != nil {
			return "", err
		}
		st, err := os.Lstat(path)
		switch {
		case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENOTDIR):
			continue
		case err != nil:
			return "", err
		case !st.IsDir():
			return "", nil
		}
		return path, nil
	}
	return "", os.ErrNotExist
}

// special says what a directory has beyond mode 0755 and owner root, "" if nothing.
func special(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	if st.Mode&0o7777 != 0o755 || st.Uid != 0 || st.Gid != 0 {
		return fmt.Sprintf("%04o of %d:%d", st.Mode&0o7777, st.Uid, st.Gid), nil
	}
	keys, err := sysx.LListxattr(path)
	if err != nil && !errors.Is(err, syscall.ENOTSUP) {
		return "", err
	}
	for _, k := range keys {
		if !strings.HasPrefix(k, "trusted.") {
			return "with the extended attribute " + k, nil
		}
	}
	return "", nil
}

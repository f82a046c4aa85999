// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// linkDir puts a symlink to target in the place of dir, which is an empty
// directory or a symlink. At every moment dir is either what it was or the link,
// on file systems that can exchange names. It is not synced: a link that a power
// cut takes is made again at the next start.
func linkDir(dir, target string) error {
	if cur, err := os.Readlink(dir); err == nil && cur == target {
		return nil
	}
	tmp := dir + ".link"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("link %s: %w", dir, err)
	}
	if err := os.Symlink(target, tmp); err != nil {
		return fmt.Errorf("link %s: %w", dir, err)
	}
	if err := exchange(tmp, dir); err != nil {
		return fmt.Errorf("link %s: %w", dir, errors.Join(err, os.Remove(tmp)))
	}
	// What was dir is now tmp. Remove does not take a directory that holds anything.
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("link %s: %w", dir, errors.Join(err, exchange(tmp, dir), os.Remove(tmp)))
	}
	return nil
}

// exchange swaps the names a and b, or, where the file system cannot or b does
// not exist, renames a to b after removing b.
func exchange(a, b string) error {
	err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.ENOENT) {
		return &os.LinkError{Op: "exchange", Old: a, New: b, Err: err}
	}
	if err := os.Remove(b); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Rename(a, b)
}

// unlinkDir puts an empty directory, owned like the directory like, in the
// place of the symlink dir. Of dir it follows nothing.
func unlinkDir(dir, like string) error {
	if err := os.Remove(dir); err != nil {
		return fmt.Errorf("unlink: %w", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("unlink: %w", err)
	}
	var st unix.Stat_t
	if like == "" || unix.Stat(like, &st) != nil {
		return nil
	}
	if err := os.Lchown(dir, int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("unlink: %w", err)
	}
	return nil
}

// isLink reports whether path itself is a symlink.
func isLink(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.Mode()&os.ModeSymlink != 0
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// writeFile writes data to path, whole or not at all, and syncs it. The caller
// syncs the directory.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

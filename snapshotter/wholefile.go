// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// emptyDir makes dir an empty directory: what is there was left by a daemon that died. A
// directory that is there stays, for on a full disk there would be no other.
func emptyDir(dir string) error {
	st, err := os.Lstat(dir)
	if err == nil && !st.IsDir() {
		err = os.Remove(dir)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// newDownloadFile opens a file without a name in dir. It refuses size bytes that
// would take more than half of what is free there.
func newDownloadFile(dir string, size int64) (*os.File, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, fmt.Errorf("%w: %w", errFile, err)
	}
	if free := st.Bavail * uint64(st.Bsize); size < 0 || uint64(size) > free/2 {
		return nil, fmt.Errorf("%w: %d bytes are more than half of what %s has left", errFile, size, dir)
	}
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err == nil {
		return f, nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("%w: %w", errFile, err)
	}
	if f, err = os.CreateTemp(dir, "layer-"); err != nil { // a file system without O_TMPFILE
		return nil, fmt.Errorf("%w: %w", errFile, err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", errFile, err), f.Close())
	}
	return f, nil
}

// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// WriteFile writes a file with the mode perm that gets its name only when it is
// complete. A symbolic link is followed. What is there and not a file, such as a device
// or a pipe, is written to as it is.
func WriteFile(name string, perm os.FileMode, write func(io.Writer) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", name, err)
		}
	}()
	dest, regular, err := destination(name)
	if err != nil {
		return err
	}
	if !regular {
		f, err := os.OpenFile(dest, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(dest), ".soci-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), dest)
}

// CheckFile says whether WriteFile may write to name, as far as that can be told before.
func CheckFile(name string) error {
	if _, _, err := destination(name); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// destination returns what name is a name of, and whether that is a file, there or to be.
func destination(name string) (dest string, regular bool, err error) {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(name); err == nil {
			return "", false, errors.New("it is a symbolic link to nothing")
		}
		return name, true, nil
	case err != nil:
		return "", false, err
	case info.IsDir():
		return "", false, syscall.EISDIR
	case !info.Mode().IsRegular():
		return name, false, nil
	}
	dest, err = filepath.EvalSymlinks(name)
	return dest, true, err
}

// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Tree writes the directory tree at dir below name, in the order of names, owned by root, with the files' own
// modes and times of whole seconds. A symbolic link that leaves the tree is replaced by what it points at, because some
// distributions lay the Go tree out in two places. Sockets and devices are left out.
func Tree(w *tar.Writer, name, dir string) error {
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	t := treeWriter{w: w, root: root}
	return t.add(name, root, 0)
}

// maxDepth bounds the nesting of directories, and so links that lead in circles.
const maxDepth = 64

type treeWriter struct {
	w    *tar.Writer
	root string
}

func (t *treeWriter) add(name, path string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("read %s: directories are nested more than %d deep", path, maxDepth)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	switch info.Mode().Type() {
	case os.ModeSymlink:
		return t.link(name, path, info, depth)
	case os.ModeDir:
		if err := t.w.WriteHeader(header(info, tar.TypeDir, name+"/", "")); err != nil {
			return fmt.Errorf("add %s: %w", path, err)
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := t.add(name+"/"+e.Name(), filepath.Join(path, e.Name()), depth+1); err != nil {
				return err
			}
		}
		return nil
	case 0:
		return t.file(name, path, info)
	}
	return nil
}

func (t *treeWriter) link(name, path string, info os.FileInfo, depth int) error {
	target, err := os.Readlink(path)
	if err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && strings.HasPrefix(real, t.root+"/") && !filepath.IsAbs(target) {
		if err := t.w.WriteHeader(header(info, tar.TypeSymlink, name, target)); err != nil {
			return fmt.Errorf("add %s: %w", path, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	return t.add(name, real, depth+1)
}

func (t *treeWriter) file(name, path string, info os.FileInfo) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := t.w.WriteHeader(header(info, tar.TypeReg, name, "")); err != nil {
		return fmt.Errorf("add %s: %w", path, err)
	}
	if _, err := io.Copy(t.w, f); err != nil {
		return fmt.Errorf("add %s: %w", path, err)
	}
	return nil
}

func header(info os.FileInfo, typ byte, name, target string) *tar.Header {
	hdr := &tar.Header{Typeflag: typ, Name: name, Linkname: target, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime().Truncate(time.Second)}
	if typ == tar.TypeReg {
		hdr.Size = info.Size()
	}
	return hdr
}

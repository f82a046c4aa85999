// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// checkerArg makes the test program a checker.
const checkerArg = "check-files"

// checker compares a tree with the truth, over and over.
type checker struct {
	dir, truth string
	paths      []string
	rand       *rand.Rand
	ops, bytes int64
}

// checkers are the ways to look at a file, by the checker's name.
func checkers() map[string]func(*checker, string, fs.FileInfo) error {
	return map[string]func(*checker, string, fs.FileInfo) error{
		"stat":   (*checker).stat,
		"names":  (*checker).names,
		"small":  (*checker).small,
		"whole":  (*checker).whole,
		"random": (*checker).random,
		"mmap":   (*checker).mapped,
		"direct": (*checker).direct,
	}
}

// runChecker checks until its input ends, and says how much it did.
func runChecker(kind, dir, truth string) error {
	c := &checker{dir: dir, truth: truth, rand: rand.New(rand.NewPCG(uint64(os.Getpid()), 1))}
	err := filepath.WalkDir(truth, func(path string, _ fs.DirEntry, err error) error {
		rel, e := filepath.Rel(truth, path)
		c.paths = append(c.paths, rel)
		return errors.Join(err, e)
	})
	if err != nil {
		return err
	}
	var stop atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop.Store(true)
	}()
	check := checkers()[kind]
	for !stop.Load() {
		rel := c.paths[c.rand.IntN(len(c.paths))]
		want, err := os.Lstat(filepath.Join(truth, rel))
		if err != nil {
			return err
		}
		if err := check(c, rel, want); err != nil {
			return fmt.Errorf("%s %s: %w", kind, rel, err)
		}
	}
	fmt.Println(c.ops, c.bytes)
	return nil
}

var errDiffers = errors.New("it is not what it should be")

func (c *checker) stat(rel string, want fs.FileInfo) error {
	c.ops++
	got, err := os.Lstat(filepath.Join(c.dir, rel))
	if err != nil {
		return err
	}
	if rel != "." && (got.Mode() != want.Mode() || !got.IsDir() && (got.Size() != want.Size() || !got.ModTime().Equal(want.ModTime()))) {
		return fmt.Errorf("%w: %v, %v", errDiffers, got, want)
	}
	if _, err := os.Lstat(filepath.Join(c.dir, rel, fmt.Sprint("not-there-", c.rand.Uint32()))); !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return err
	}
	return nil
}

// names lists directories and reads links.
func (c *checker) names(rel string, want fs.FileInfo) error {
	switch {
	case want.IsDir():
		c.ops++
		got, err := os.ReadDir(filepath.Join(c.dir, rel))
		if err != nil {
			return err
		}
		all, err := os.ReadDir(filepath.Join(c.truth, rel))
		if err != nil {
			return err
		}
		if !slices.EqualFunc(got, all, func(a, b fs.DirEntry) bool { return a.Name() == b.Name() && a.Type() == b.Type() }) {
			return fmt.Errorf("%w: %v, %v", errDiffers, got, all)
		}
	case want.Mode().Type() == fs.ModeSymlink:
		c.ops++
		got, err := os.Readlink(filepath.Join(c.dir, rel))
		if err != nil {
			return err
		}
		if to, err := os.Readlink(filepath.Join(c.truth, rel)); err != nil || got != to {
			return fmt.Errorf("%w: %s, %s, %w", errDiffers, got, to, err)
		}
	}
	return nil
}

// compare holds that p is what the file has at off.
func (c *checker) compare(rel string, p []byte, off int64) error {
	c.ops++
	c.bytes += int64(len(p))
	f, err := os.Open(filepath.Join(c.truth, rel))
	if err != nil {
		return err
	}
	defer f.Close()
	want := make([]byte, len(p))
	if _, err := io.ReadFull(io.NewSectionReader(f, off, int64(len(p))), want); err != nil {
		return err
	}
	if !bytes.Equal(p, want) {
		return fmt.Errorf("%w: %d bytes at %d", errDiffers, len(p), off)
	}
	return nil
}

// open opens the file of the tree, and has its pages forgotten when it is done.
func (c *checker) open(rel string, flags int, use func(f *os.File) error) error {
	f, err := os.OpenFile(filepath.Join(c.dir, rel), os.O_RDONLY|flags, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	err = use(f)
	return errors.Join(err, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
}

func (c *checker) small(rel string, want fs.FileInfo) error {
	if !want.Mode().IsRegular() || want.Size() > 64<<10 {
		return nil
	}
	return c.open(rel, 0, func(f *os.File) error {
		p, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		if int64(len(p)) != want.Size() {
			return fmt.Errorf("%w: %d bytes, %d", errDiffers, len(p), want.Size())
		}
		return c.compare(rel, p, 0)
	})
}

// whole reads large files from the beginning to the end.
func (c *checker) whole(rel string, want fs.FileInfo) error {
	if !want.Mode().IsRegular() || want.Size() < 1<<20 {
		return nil
	}
	return c.open(rel, 0, func(f *os.File) error {
		p := make([]byte, 1<<20)
		for off := int64(0); off < want.Size(); {
			n, err := io.ReadFull(f, p)
			if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				return err
			}
			if err := c.compare(rel, p[:n], off); err != nil {
				return err
			}
			off += int64(n)
		}
		return nil
	})
}

// random reads a few bytes somewhere.
func (c *checker) random(rel string, want fs.FileInfo) error {
	if !want.Mode().IsRegular() || want.Size() == 0 {
		return nil
	}
	return c.open(rel, 0, func(f *os.File) error {
		off := c.rand.Int64N(want.Size())
		p := make([]byte, min(want.Size()-off, 1+c.rand.Int64N(100<<10)))
		if _, err := f.ReadAt(p, off); err != nil {
			return err
		}
		return c.compare(rel, p, off)
	})
}

// mapped looks at pages of a mapping.
func (c *checker) mapped(rel string, want fs.FileInfo) error {
	if !want.Mode().IsRegular() || want.Size() < 64<<10 {
		return nil
	}
	return c.open(rel, 0, func(f *os.File) error {
		m, err := unix.Mmap(int(f.Fd()), 0, int(want.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		for range 5 {
			off := c.rand.Int64N(want.Size())
			if err := c.compare(rel, bytes.Clone(m[off:min(want.Size(), off+9000)]), off); err != nil {
				return err
			}
		}
		return unix.Munmap(m)
	})
}

// direct reads past the page cache.
func (c *checker) direct(rel string, want fs.FileInfo) error {
	if !want.Mode().IsRegular() || want.Size() < 64<<10 {
		return nil
	}
	return c.open(rel, unix.O_DIRECT, func(f *os.File) error {
		off := c.rand.Int64N(want.Size()) &^ 4095
		p := make([]byte, 128<<10)
		n, err := f.ReadAt(p, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		return c.compare(rel, p[:n], off)
	})
}

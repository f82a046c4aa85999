// SPDX-License-Identifier: Apache-2.0

package check

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
	"syscall"

	"golang.org/x/sys/unix"
)

var (
	errWrong = errors.New("it is not what it should be")
	errFault = errors.New("page fault failed")
)

// How large a file is for the ways that want small or large ones.
const (
	smallSize = 64 << 10
	largeSize = 64 << 10
)

// looker is one look at one file.
type looker struct {
	root, truth string // the file in both trees
	rand        *rand.Rand
	want        fs.FileInfo // of the truth

	looked   bool  // the way was one for this file
	off, len int64 // of the bytes that it is about to get
	bytes    int64 // compared
}

// ways are the ways to look at a file, by name.
func ways() map[string]func(*looker) error {
	return map[string]func(*looker) error{
		"stat":   (*looker).stat,
		"names":  (*looker).names,
		"small":  (*looker).small,
		"whole":  (*looker).whole,
		"random": (*looker).random,
		"mmap":   (*looker).mapped,
		"direct": (*looker).direct,
	}
}

// Content reports whether a way reads the bytes of files, and not only their names and attributes.
func Content(way string) bool { return way != "stat" && way != "names" }

func (l *looker) run(look func(*looker) error) (err error) {
	if l.want, err = os.Lstat(l.truth); err != nil {
		return fmt.Errorf("look at the truth: %w", err)
	}
	defer func() {
		switch v := recover().(type) {
		case nil:
		case interface {
			error
			Addr() uintptr
		}: // of the runtime: memory that could not be paged in
			err = fmt.Errorf("%w: %v", errFault, v)
		default:
			panic(v)
		}
	}()
	return look(l)
}

func (l *looker) stat() error {
	l.looked = true
	got, err := os.Lstat(l.root)
	if err != nil {
		return err
	}
	a, b := got.Sys().(*syscall.Stat_t), l.want.Sys().(*syscall.Stat_t)
	same := a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid && a.Rdev == b.Rdev
	if !l.want.IsDir() {
		same = same && a.Size == b.Size && a.Mtim == b.Mtim && a.Nlink == b.Nlink
	}
	if !same {
		return fmt.Errorf("%w: %+v, want %+v", errWrong, *a, *b)
	}
	_, err = os.Lstat(filepath.Join(l.root, fmt.Sprint("not-there-", l.rand.Uint32())))
	if err == nil {
		return fmt.Errorf("%w: a name that is not there is there", errWrong)
	}
	if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return err
	}
	return nil
}

// names lists directories and reads links.
func (l *looker) names() error {
	switch {
	case l.want.IsDir():
		l.looked = true
		got, err := os.ReadDir(l.root)
		if err != nil {
			return err
		}
		all, err := os.ReadDir(l.truth)
		if err != nil {
			return err
		}
		if !slices.EqualFunc(got, all, func(a, b fs.DirEntry) bool { return a.Name() == b.Name() && a.Type() == b.Type() }) {
			return fmt.Errorf("%w: %v, want %v", errWrong, got, all)
		}
	case l.want.Mode().Type() == fs.ModeSymlink:
		l.looked = true
		got, err := os.Readlink(l.root)
		if err != nil {
			return err
		}
		to, err := os.Readlink(l.truth)
		if err != nil {
			return err
		}
		if got != to {
			return fmt.Errorf("%w: link to %q, want %q", errWrong, got, to)
		}
	}
	return nil
}

// open opens the file, and has its pages forgotten when it has been used.
func (l *looker) open(flags int, use func(f *os.File) error) (err error) {
	l.looked = true
	f, err := os.OpenFile(l.root, os.O_RDONLY|flags, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	defer func() { _ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }() // a hint
	return use(f)
}

// compare holds that p is what the file has at off.
func (l *looker) compare(p []byte, off int64) error {
	f, err := os.Open(l.truth)
	if err != nil {
		return err
	}
	defer f.Close()
	want := make([]byte, len(p))
	if _, err := f.ReadAt(want, off); err != nil {
		return fmt.Errorf("read the truth: %w", err)
	}
	l.bytes += int64(len(p))
	if bytes.Equal(p, want) {
		return nil
	}
	first, differ := -1, 0
	for i := range p {
		if p[i] != want[i] {
			if differ++; first < 0 {
				first = i
			}
		}
	}
	near := p[first:min(len(p), first+16)]
	return fmt.Errorf("%w: %d of %d bytes at %d differ, first at %d: %x, want %x", errWrong, differ, len(p), off, off+int64(first), near, want[first:first+len(near)])
}

// read fills p from off on and compares it.
func (l *looker) read(f *os.File, p []byte, off int64) error {
	l.off, l.len = off, int64(len(p))
	n, err := f.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: the file ends at %d, want %d", errWrong, off+int64(n), l.want.Size())
	}
	if err != nil {
		return err
	}
	return l.compare(p, off)
}

func (l *looker) regular(least, most int64) bool {
	return l.want.Mode().IsRegular() && l.want.Size() >= least && l.want.Size() <= most
}

// small reads a file as most programs do, up to its end.
func (l *looker) small() error {
	if !l.regular(0, smallSize) {
		return nil
	}
	return l.open(0, func(f *os.File) error {
		l.off, l.len = 0, l.want.Size()
		p, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		if int64(len(p)) != l.want.Size() {
			return fmt.Errorf("%w: %d bytes, want %d", errWrong, len(p), l.want.Size())
		}
		return l.compare(p, 0)
	})
}

// whole reads a large file from the beginning to the end.
func (l *looker) whole() error {
	if !l.regular(largeSize, 1<<40) {
		return nil
	}
	return l.open(0, func(f *os.File) error {
		p := make([]byte, 256<<10)
		for off := int64(0); off < l.want.Size(); off += int64(len(p)) {
			p = p[:min(int64(len(p)), l.want.Size()-off)]
			if err := l.read(f, p, off); err != nil {
				return err
			}
		}
		return nil
	})
}

// random reads some bytes somewhere.
func (l *looker) random() error {
	if !l.regular(1, 1<<40) {
		return nil
	}
	return l.open(0, func(f *os.File) error {
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM) // a hint
		off := l.rand.Int64N(l.want.Size())
		return l.read(f, make([]byte, min(l.want.Size()-off, 1+l.rand.Int64N(100<<10))), off)
	})
}

// mapped looks at pages of a mapping.
func (l *looker) mapped() error {
	if !l.regular(largeSize, 1<<40) {
		return nil
	}
	return l.open(0, func(f *os.File) (err error) {
		m, err := unix.Mmap(int(f.Fd()), 0, int(l.want.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unix.Munmap(m)) }() // after a fault, too
		for range 5 {
			off := l.rand.Int64N(l.want.Size())
			end := min(l.want.Size(), off+9000)
			l.off, l.len = off, end-off
			if err := l.compare(bytes.Clone(m[off:end]), off); err != nil {
				return err
			}
		}
		return nil
	})
}

// direct reads past the page cache.
func (l *looker) direct() error {
	if !l.regular(largeSize, 1<<40) {
		return nil
	}
	return l.open(unix.O_DIRECT, func(f *os.File) error {
		off := l.rand.Int64N(l.want.Size()) &^ 4095
		// What O_DIRECT reads into is to be aligned, too.
		p, err := unix.Mmap(-1, 0, 128<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Munmap(p) }()
		l.off, l.len = off, min(int64(len(p)), l.want.Size()-off)
		n, err := f.ReadAt(p, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if int64(n) != l.len {
			return fmt.Errorf("%w: %d bytes at %d, want %d", errWrong, n, off, l.len)
		}
		return l.compare(p[:n], off)
	})
}

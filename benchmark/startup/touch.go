// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/benchmark/internal/node"
)

// touch finds the pages that the container's run needs: those that are in the page cache
// after it, with a kernel that does not read ahead.
func (b *bench) touch(ctx context.Context) error {
	if !b.wanted.any("start", "profile", "link", "bytes") {
		return nil
	}
	ref := b.registry.Host() + "/" + repoCompact
	return b.node(ctx, noBackground, func(n *node.Node) (err error) {
		if err := n.Pull(ctx, ref, node.Soci); err != nil {
			return err
		}
		if err := n.SetReadAhead(0); err != nil {
			return err
		}
		if _, err := b.runOnce(ctx, n, ref, node.Soci); err != nil {
			return err
		}
		b.bound.touched, err = b.cached(ctx, n, ref, node.Soci)
		if err == nil && b.bound.touched.uncompressed == 0 {
			err = errors.New("the run has left no page in the page cache")
		}
		return err
	})
}

// readFromDisk notes the pages that a run on overlayfs reads from disk when nothing is in the page cache.
func (b *bench) readFromDisk(ctx context.Context, n *node.Node, ref string) error {
	if err := node.DropCaches(); err != nil {
		return err
	}
	if _, err := b.runOnce(ctx, n, ref, node.Overlayfs); err != nil {
		return err
	}
	t, err := b.cached(ctx, n, ref, node.Overlayfs)
	if err != nil {
		return err
	}
	b.bound.fromDisk = append(b.bound.fromDisk, t)
	if b.bound.diskReadAhead == "" {
		b.bound.diskReadAhead, err = readAhead(n.Dir)
	}
	return err
}

// cached is what of the image's files is in the page cache.
func (b *bench) cached(ctx context.Context, n *node.Node, ref, snapshotter string) (pages, error) {
	var t pages
	err := n.View(ctx, ref, snapshotter, func(dir string) (err error) {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, root.Close()) }()
		for name, p := range b.content.files {
			in, err := inCache(root, name)
			if errors.Is(err, os.ErrNotExist) {
				continue // an upper layer has removed it
			}
			if err != nil {
				return err
			}
			for i, yes := range in {
				if yes&1 != 0 {
					b.content.touch(&t, p, int64(i)*pageSize)
				}
			}
		}
		return nil
	})
	return t, err
}

// inCache says of each page of a file, in bit 0, whether it is in the page cache (mincore(2)).
func inCache(root *os.Root, file string) (_ []byte, err error) {
	f, err := root.Open(strings.TrimPrefix(file, "/"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return nil, err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", file, err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(m)) }()
	in := make([]byte, (len(m)+pageSize-1)/pageSize)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(m))), uintptr(len(m)), uintptr(unsafe.Pointer(unsafe.SliceData(in))))
	if errno != 0 {
		return nil, fmt.Errorf("pages of %s in the page cache: %w", file, errno)
	}
	return in, nil
}

// readAhead is what the kernel reads ahead on the disk that dir is on, such as "128 KiB".
func readAhead(dir string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return "", fmt.Errorf("disk of %s: %w", dir, err)
	}
	file := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
	p, err := os.ReadFile(file)
	return strings.TrimSpace(string(p)) + " KiB", err
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/seekoci/seekoci/benchmark/internal/node"
	"github.com/seekoci/seekoci/benchmark/internal/stat"
)

// sums are what every file tree of the image must be the same in.
type sums struct {
	bytes string // of all files
	names string // with attributes
	large string // of the largest file
}

// same compares a sum with the one seen first.
func same(what string, first *string, sum string) error {
	if *first == "" {
		*first = sum
	}
	if *first != sum {
		return fmt.Errorf("%s: there are %s here, there were %s elsewhere", what, sum, *first)
	}
	return nil
}

// reading is how long it takes to read all files.
type reading struct {
	alone stat.Series // seconds
	all   stat.Series // with the pull before it
}

// readLazily pulls lazily and reads every file.
func (b *bench) readLazily(ctx context.Context) error {
	ref := b.registry.Host() + "/" + repoCompact
	err := b.node(ctx, "", func(n *node.Node) error {
		var pull stat.Series
		if err := pull.Time(func() error { return n.Pull(ctx, ref, node.Soci) }); err != nil {
			return err
		}
		return b.readFiles(ctx, n, ref, node.Soci, &b.read.lazy, pull[0])
	})
	if err != nil {
		return fmt.Errorf("read every file lazily: %w", err)
	}
	return nil
}

// readFiles reads every file once. pull is how long the pull has taken.
func (b *bench) readFiles(ctx context.Context, n *node.Node, ref, snapshotter string, to *reading, pull float64) error {
	return n.View(ctx, ref, snapshotter, func(dir string) error {
		start := time.Now()
		sum, err := readTree(dir)
		if err != nil {
			return err
		}
		took := time.Since(start).Seconds()
		to.alone, to.all = append(to.alone, took), append(to.all, pull+took)
		return same("bytes of all files", &b.sums.bytes, sum)
	})
}

// readTree reads the files below dir, one after another in the order of their names. It
// returns how many there are, with how many bytes, and their CRC32C.
func readTree(dir string) (string, error) {
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	buf := make([]byte, 1<<20)
	var files, size int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		n, err := readFile(path, sum, buf)
		files, size = files+1, size+n
		return err
	})
	return fmt.Sprintf("%d files, %d bytes, CRC32C %08x", files, size, sum.Sum32()), err
}

// readFile copies a file to w through buf.
func readFile(path string, w io.Writer, buf []byte) (n int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// The struct hides what io.Copy would use instead of buf.
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{f}, buf)
}

// warmths are figures of a file system that has everything in the caches, of each round.
type warmths struct {
	walk       stat.Series // seconds of find
	sequential stat.Series // seconds of reading the largest file
	random     stat.Series // seconds of a read of 4 KiB
}

// How often what is short is repeated, and how many reads there are.
const (
	warmWalks = 5
	warmPages = 20_000
)

// warm measures walks of the tree, and reads of the largest file, each after one that is not counted.
func (b *bench) warm(ctx context.Context, n *node.Node, ref, snapshotter string, to *warmths) error {
	return n.View(ctx, ref, snapshotter, func(dir string) error {
		names, err := listTree(ctx, dir)
		if err != nil {
			return err
		}
		if err := same("names and attributes of all files", &b.sums.names, names); err != nil {
			return err
		}
		var walks stat.Series
		for range warmWalks {
			if err := walks.Time(func() error { return find(ctx, dir, nil) }); err != nil {
				return err
			}
		}
		to.walk = append(to.walk, walks.Median())
		name, p := b.content.largest()
		return b.warmFile(filepath.Join(dir, name), p.size, to)
	})
}

// find lists a tree with all that stat says of each file, but for what file systems make up.
func find(ctx context.Context, dir string, out io.Writer) error {
	cmd := exec.CommandContext(ctx, "find", dir, "-mindepth", "1",
		"-type", "d", "-printf", `%P %y %m %U %G %T@\n`, "-o", "-printf", `%P %y %m %U %G %T@ %s %l\n`)
	cmd.Stdout = out
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("find in %s: %w: %s", dir, err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// listTree sums up what find lists, in any order.
func listTree(ctx context.Context, dir string) (string, error) {
	var out bytes.Buffer
	if err := find(ctx, dir, &out); err != nil {
		return "", err
	}
	var lines []string
	for s := bufio.NewScanner(&out); s.Scan(); {
		lines = append(lines, s.Text())
	}
	slices.Sort(lines)
	sum := crc32.Checksum([]byte(strings.Join(lines, "\n")), crc32.MakeTable(crc32.Castagnoli))
	return fmt.Sprintf("%d names, CRC32C %08x", len(lines), sum), nil
}

// warmFile reads a file that is in the page cache, from its beginning to its end and at random.
func (b *bench) warmFile(path string, size int64, to *warmths) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	buf := make([]byte, 1<<20)
	if _, err := readFile(path, sum, buf); err != nil {
		return err
	}
	if err := same("bytes of the largest file", &b.sums.large, fmt.Sprintf("CRC32C %08x", sum.Sum32())); err != nil {
		return err
	}
	if err := to.sequential.Time(func() error {
		_, err := readFile(path, io.Discard, buf)
		return err
	}); err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	var random stat.Series
	if err := random.Time(func() error {
		for range warmPages {
			if _, err := f.ReadAt(buf[:pageSize], rnd.Int64N(size-pageSize+1)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	to.random = append(to.random, random[0]/warmPages)
	return nil
}

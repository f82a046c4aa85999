// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"bufio"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// BenchmarkMount has another process use a layer that is all on disk, and the same files
// extracted, below an overlay. Cold means that the kernel has dropped the mount's pages,
// but not those of the file that the layer is in.
func BenchmarkMount(b *testing.B) {
	f := mustMount(b)
	files := []ztoctest.File{ztoctest.Big(1, "big/a", 64<<20), ztoctest.Big(2, "big/b", 64<<20)}
	for i := range 5000 {
		files = append(files, ztoctest.Big(uint64(i), fmt.Sprintf("small/%d/%d", i/50, i), 3000))
	}
	layer := mustBuild(b, files)
	lazy, l := mustAttach(b, f, "layer", layer)
	must(b, l.Fill(b.Context()))
	must(b, l.Close())
	f.setReadAhead()
	empty := b.TempDir()
	lazy = overlay(b, []string{lazy, empty})
	native := overlay(b, []string{extract(b, layer.tar), empty})
	for _, kind := range []string{"walk", "cold sequential", "warm sequential", "cold random 4 KiB", "warm random 4 KiB", "cold small", "warm small"} {
		name := strings.ReplaceAll(kind, " ", "-")
		b.Run(name+"/lazy", func(b *testing.B) { benchLoad(b, kind, lazy) })
		if !strings.HasPrefix(kind, "cold") {
			b.Run(name+"/native", func(b *testing.B) { benchLoad(b, kind, native) })
		}
	}
}

// benchLoad has a child do one kind of load as often as b wants, and reports what it measured.
func benchLoad(b *testing.B, kind, dir string) {
	c := command(b, "load", kind, dir)
	in, err := c.StdinPipe()
	must(b, err)
	out, err := c.StdoutPipe()
	must(b, err)
	must(b, c.Start())
	lines := bufio.NewScanner(out)
	var ops, bytes, ns, allOps, allBytes, allNs int64
	for b.Loop() {
		fmt.Fprintln(in, "go")
		if !lines.Scan() {
			b.Fatal("child ended")
		}
		if _, err := fmt.Sscan(lines.Text(), &ops, &bytes, &ns); err != nil {
			b.Fatalf("%q: %v", lines.Text(), err)
		}
		if ops == 0 {
			b.Fatal("nothing done")
		}
		allOps, allBytes, allNs = allOps+ops, allBytes+bytes, allNs+ns
	}
	must(b, in.Close())
	must(b, c.Wait())
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(allNs)/float64(allOps)/1e3, "us/file-or-read")
	if allBytes > 0 {
		b.ReportMetric(float64(allBytes)*1e3/float64(allNs), "MB/s")
	}
}

// load does one kind of load for each line on stdin.
func load(kind, dir string) error {
	sub := "small"
	if strings.HasSuffix(kind, "sequential") || strings.HasSuffix(kind, "4 KiB") {
		sub = "big"
	}
	var paths []string
	err := filepath.WalkDir(filepath.Join(dir, sub), func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			paths = append(paths, p)
		}
		return err
	})
	if err != nil {
		return err
	}
	once := func() (ops, bytes int64, err error) { return readAll(paths) }
	switch {
	case kind == "walk":
		once = func() (ops, bytes int64, err error) { return walk(dir) }
	case strings.HasSuffix(kind, "4 KiB"):
		once = func() (ops, bytes int64, err error) { return readRandom(paths) }
	}
	if _, _, err := once(); err != nil { // warms up
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if strings.HasPrefix(kind, "cold") {
			if err := dropPages(paths); err != nil {
				return err
			}
		}
		begin := time.Now()
		ops, bytes, err := once()
		if err != nil {
			return err
		}
		fmt.Println(ops, bytes, time.Since(begin).Nanoseconds())
	}
	return nil
}

func walk(dir string) (files, bytes int64, err error) {
	err = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		files++
		_, err = e.Info()
		return err
	})
	return files, 0, err
}

// readAll reads the files from beginning to end.
func readAll(paths []string) (files, bytes int64, err error) {
	buf := make([]byte, 1<<20)
	for _, p := range paths {
		fd, err := unix.Open(p, unix.O_RDONLY, 0)
		if err != nil {
			return 0, 0, err
		}
		for n := 1; n > 0 && err == nil; bytes += int64(n) {
			n, err = unix.Read(fd, buf)
		}
		if err != nil {
			return 0, 0, err
		}
		files++
		if err := unix.Close(fd); err != nil {
			return 0, 0, err
		}
	}
	return files, bytes, nil
}

// readRandom reads 2,000 pages.
func readRandom(paths []string) (reads, bytes int64, err error) {
	r := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 4096)
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return 0, 0, err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return 0, 0, err
		}
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
			return 0, 0, err
		}
		for range 2000 / len(paths) {
			if _, err := f.ReadAt(buf, r.Int64N(st.Size()/4096)*4096); err != nil {
				return 0, 0, err
			}
			reads++
			bytes += 4096
		}
	}
	return reads, bytes, nil
}

// dropPages has the kernel forget what is in the files.
func dropPages(paths []string) error {
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

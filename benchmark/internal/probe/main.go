// SPDX-License-Identifier: Apache-2.0

// Probe is the program inside test images: it looks at the container's root
// file system from within and prints what it sees.
//
//	probe tree [DIR]       the tree at DIR, by default the root: one line per file
//	probe read N FILE...   the files' digests, each read by N readers at once
//	probe sleep            nothing, until it is told to stop
//
// # Limits
//
// Built with CGO_ENABLED=0 it needs nothing else in the image.
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/seekoci/seekoci/benchmark/internal/tree"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) >= 1 && args[0] == "tree" {
		root := "/"
		if len(args) > 1 {
			root = args[1]
		}
		return tree.Write(os.Stdout, root)
	}
	if len(args) == 1 && args[0] == "sleep" {
		told := make(chan os.Signal, 1)
		signal.Notify(told, os.Interrupt, syscall.SIGTERM)
		<-told
		return nil
	}
	if len(args) >= 3 && args[0] == "read" {
		n, err := strconv.Atoi(args[1])
		if err != nil || n < 1 {
			return fmt.Errorf("read: %q is no number of readers", args[1])
		}
		return read(n, args[2:])
	}
	return fmt.Errorf("want tree [DIR], read N FILE... or sleep, have %q", args)
}

// read reads every file n times at once and prints its digest, on which all readers must agree.
func read(n int, files []string) error {
	sums := make([]string, n*len(files))
	var g errgroup.Group
	for i := range sums {
		g.Go(func() (err error) {
			sums[i], err = digest(files[i/n])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, sum := range sums {
		if first := sums[i-i%n]; sum != first {
			return fmt.Errorf("%s: one reader saw %s, another %s", files[i/n], first, sum)
		}
		if i%n == 0 {
			fmt.Println(sum, files[i/n])
		}
	}
	return nil
}

func digest(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close() // read only
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

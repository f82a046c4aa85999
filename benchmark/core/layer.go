// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/benchmark/internal/image"
)

// layer is a gzip layer on disk, and what the standard library says of it: all that
// is measured is compared with that.
type layer struct {
	name    string // base, torch
	path    string
	size    int64 // of the file
	tarSize int64
	files   int
	dgst    digest.Digest
	diffID  digest.Digest
	archive digest.Digest // of the tar up to its end-of-archive marker, which is what spans hold
}

// readLayer reads the layer at path with compress/gzip and archive/tar.
func readLayer(path string) (*layer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l := &layer{name: strings.TrimSuffix(strings.TrimSuffix(filepath.Base(path), ".gz"), ".tar"), path: path}
	dgst, diffID := sha256.New(), sha256.New()
	in := &counter{r: io.TeeReader(f, dgst)}
	z, err := gzip.NewReader(bufio.NewReaderSize(in, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read layer %s: %w", path, err)
	}
	out := &counter{r: io.TeeReader(z, diffID)}
	for t := tar.NewReader(out); ; l.files++ {
		if _, err := t.Next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read layer %s: %w", path, err)
		}
	}
	l.archive = digest.NewDigest(digest.SHA256, diffID)
	if _, err := io.Copy(io.Discard, out); err != nil { // what follows the end of the archive
		return nil, fmt.Errorf("read layer %s: %w", path, err)
	}
	l.size, l.tarSize = in.n, out.n
	l.dgst, l.diffID = digest.NewDigest(digest.SHA256, dgst), digest.NewDigest(digest.SHA256, diffID)
	return l, nil
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// layerFiles replaces directories among the arguments by the layers in them. One without any gets that of goLayer.
func layerFiles(ctx context.Context, args []string) ([]string, error) {
	var files []string
	for _, a := range args {
		if strings.HasSuffix(a, ".gz") {
			files = append(files, a)
			continue
		}
		found, err := filepath.Glob(filepath.Join(a, "*.tar.gz"))
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			path, err := goLayer(ctx, a)
			if err != nil {
				return nil, err
			}
			found = []string{path}
		}
		files = append(files, found...)
	}
	return files, nil
}

// goLayer makes go.tar.gz in dir of the machine's Go tree, a layer that needs nothing from elsewhere.
func goLayer(ctx context.Context, dir string) (path string, err error) {
	path = filepath.Join(dir, "go.tar.gz")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(dir, "image-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	img, err := image.Go(ctx, tmp)
	if err != nil {
		return "", fmt.Errorf("make %s: %w", path, err)
	}
	large := img.Layers[0]
	for _, l := range img.Layers {
		if l.Size > large.Size {
			large = l
		}
	}
	return path, os.Rename(filepath.Join(tmp, "blobs", large.Digest.Algorithm().String(), large.Digest.Encoded()), path)
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sync/errgroup"
)

// Generated layers hold the bytes of real files. Those are compressed once, piece by
// piece, so that a layer of any size costs no more than copying.
const (
	poolSize  = 256 << 20 // bytes of files
	pieceSize = 4 << 20   // a file larger than that is several pieces
	pieceMin  = 64 << 10
	// level is gzip's default.
	level = 6
)

// piece is a run of a file's bytes.
type piece struct {
	plain   []byte
	deflate []byte // blocks none of which is the last; they refer to nothing before them and end at a byte border
}

// readPool takes about size bytes of files evenly from the layer at path.
func readPool(path string, size int64) ([]piece, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read layer %s: %w", path, err)
	}
	// A layer is about three times its file. Every so many-th piece is taken.
	stride := max(1, int(3*info.Size()/size))
	var pool []piece
	seen, total := 0, int64(0)
	for t := tar.NewReader(z); total < size; {
		hdr, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read layer %s: %w", path, err)
		}
		for rest := hdr.Size; rest >= pieceMin; rest -= pieceSize {
			if seen++; seen%stride != 0 {
				_, err = io.CopyN(io.Discard, t, min(rest, pieceSize))
			} else {
				p := make([]byte, min(rest, pieceSize))
				_, err = io.ReadFull(t, p)
				pool = append(pool, piece{plain: p})
				total += int64(len(p))
			}
			if err != nil {
				return nil, fmt.Errorf("read %s of layer %s: %w", hdr.Name, path, err)
			}
		}
	}
	if len(pool) == 0 {
		return nil, fmt.Errorf("layer %s has no file of %d KiB", path, pieceMin>>10)
	}
	return pool, compress(pool)
}

// compress fills in the pieces' compressed bytes.
func compress(pool []piece) error {
	var g errgroup.Group
	g.SetLimit(2)
	for i := range pool {
		p := &pool[i]
		g.Go(func() error {
			var b bytes.Buffer
			w, err := flate.NewWriter(&b, level)
			if err != nil {
				return err
			}
			if _, err := w.Write(p.plain); err != nil {
				return err
			}
			err = w.Flush()
			p.deflate = b.Bytes()
			return err
		})
	}
	return g.Wait()
}

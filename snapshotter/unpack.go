// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	continuity "github.com/containerd/continuity/fs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/ztoc"
)

// zstdMemory bounds the window a zstd layer may ask for, in bytes. Layers are
// made with windows of up to 128 MiB.
const zstdMemory = 128 << 20

// destination is where a layer is unpacked to.
type destination struct {
	dir     string   // an empty overlay upper directory
	parents []string // the directories of the layers below, highest first; nil means none are looked at

	// look is told of each header of the tar and of how much has been read; an error
	// ends the unpacking. nil means nobody.
	look func(h *tar.Header, read int64) error
}

// unpack fetches a whole layer to a destination and returns what it takes on disk. Nothing
// of it may be used if there is an error: the layer's digest and diffID are known only at
// the end. Downloading and inflating go on while files are made.
func unpack(ctx context.Context, b blob, diffID digest.Digest, to destination) (snapshots.Usage, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := b.Open(ctx)
	if err != nil {
		return snapshots.Usage{}, err
	}
	defer r.Close()
	plain, err := decompress(ctx, r)
	if err != nil {
		return snapshots.Usage{}, err
	}
	defer plain.Close()
	defer cancel()
	sum := diffID.Algorithm().Digester()
	layer := &counter{r: io.TeeReader(plain, sum.Hash())}
	opts := []archive.ApplyOpt{archive.WithConvertWhiteout(archive.OverlayConvertWhiteout)}
	if len(to.parents) > 0 {
		opts = append(opts, archive.WithParents(to.parents))
	}
	if to.look != nil {
		opts = append(opts, archive.WithFilter(func(h *tar.Header) (bool, error) { return true, to.look(h, layer.n) }))
	}
	if _, err := archive.Apply(ctx, to.dir, layer, opts...); err != nil {
		return snapshots.Usage{}, err
	}
	// Padding behind the tar is part of the diffID, and what the registry sent
	// counts only once its reader has said that size and digest are right.
	_, err = io.Copy(io.Discard, layer)
	if err = errors.Join(err, plain.Close()); err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	if err != nil {
		return snapshots.Usage{}, err
	}
	if got := sum.Digest(); got != diffID {
		return snapshots.Usage{}, fmt.Errorf("diffID is %s, not %s", got, diffID)
	}
	du, err := continuity.DiskUsage(ctx, to.dir)
	return snapshots.Usage(du), err
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

// decompress returns the uncompressed bytes of a layer, whose compression is told by
// its first bytes. Close frees what it takes to read them, and leaves r open.
func decompress(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	magic, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return ztoc.NewGzipReader(ctx, br), nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18}):
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(zstdMemory), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(br), nil
}

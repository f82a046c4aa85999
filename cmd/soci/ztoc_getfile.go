// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/cmd/internal/store"
	"github.com/seekoci/seekoci/ztoc"
)

// maxLinks bounds the links followed from one name, as the kernel does.
const maxLinks = 40

func ztocGetFileCommand() *cli.Command {
	return &cli.Command{
		Name:      "get-file",
		Usage:     "get a file out of a layer, reading no more than its spans",
		ArgsUsage: "<digest> <file>",
		Description: "The zTOC may have either format. The layer is taken from containerd, or with --layer\n" +
			"from a file. Instead of a digest, the path of a zTOC file is taken as well.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write to `file` instead of standard output"},
			&cli.StringFlag{Name: "layer", Usage: "`file` that holds the layer"},
		},
		Action: action(ztocGetFile),
	}
}

func ztocGetFile(ctx context.Context, e *env, cmd *cli.Command) error {
	arg, name := cmd.Args().Get(0), cmd.Args().Get(1)
	if arg == "" || name == "" {
		return errors.New("ztoc digest and file need to be specified")
	}
	z, _, err := e.readZTOC(ctx, arg)
	if err != nil {
		return err
	}
	entry, err := findFile(z, name)
	if err != nil {
		return fmt.Errorf("get %s: ztoc %s: %w", name, arg, err)
	}
	layer, err := e.openLayer(ctx, arg, cmd.String("layer"))
	if err != nil {
		return fmt.Errorf("get %s: %w", name, err)
	}
	defer layer.Close()
	if out := cmd.String("output"); out != "" {
		return store.WriteFile(out, os.FileMode(entry.Mode)&os.ModePerm, func(w io.Writer) error {
			return extract(ctx, w, layer, z.ZInfo(), entry)
		})
	}
	w := bufio.NewWriter(e.out)
	if err := extract(ctx, w, layer, z.ZInfo(), entry); err != nil {
		return fmt.Errorf("get %s: %w", name, err)
	}
	w.WriteByte('\n') //nolint:errcheck // Flush returns it
	return w.Flush()
}

// findFile returns the regular file called name, following links.
func findFile(z *ztoc.Reader, name string) (*ztoc.Entry, error) {
	at := name
	for range maxLinks {
		f, ok := z.Lookup(at)
		switch {
		case !ok && at == name:
			return nil, errors.New("no such file")
		case !ok:
			return nil, fmt.Errorf("it links to %s, which is not in this layer", at)
		case f.Type == ztoc.TypeReg:
			return &f, nil
		case f.Type == ztoc.TypeHardlink:
			at = f.Linkname
		case f.Type == ztoc.TypeSymlink && path.IsAbs(f.Linkname):
			at = f.Linkname
		case f.Type == ztoc.TypeSymlink:
			at = path.Join(path.Dir(path.Clean("/"+f.Name)), f.Linkname)
		default:
			return nil, fmt.Errorf("%s is not a regular file but of type %s", at, f.Type)
		}
	}
	return nil, fmt.Errorf("more than %d links", maxLinks)
}

// layerReader reads a layer anywhere.
type layerReader interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// layerFile is a layer in a file.
type layerFile struct {
	*os.File
	size int64
}

func (f layerFile) Size() int64 { return f.size }

// openLayer opens the layer of a zTOC: file if that is not empty, otherwise
// the layer in containerd that the zTOC was made of.
func (e *env) openLayer(ctx context.Context, zarg, file string) (layerReader, error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("open layer: %w", err)
		}
		info, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("open layer: %w", err)
		}
		return layerFile{f, info.Size()}, nil
	}
	dgst, err := digest.Parse(zarg)
	if err != nil {
		return nil, errors.New("the layer of a zTOC file needs to be given with --layer")
	}
	db, err := e.db()
	if err != nil {
		return nil, err
	}
	entry, err := db.Get(dgst)
	if err != nil {
		return nil, fmt.Errorf("find the layer of ztoc %s: %w", dgst, err)
	}
	images, err := e.images(ctx)
	if err != nil {
		return nil, err
	}
	return images.OpenAt(ctx, ocispec.Descriptor{Digest: entry.OriginalDigest})
}

// extract writes the content of entry to w, span by span.
func extract(ctx context.Context, w io.Writer, layer layerReader, z *ztoc.ZInfo, entry *ztoc.Entry) error {
	if layer.Size() != z.CompressedSize {
		return fmt.Errorf("layer has %d bytes, its zTOC says %d", layer.Size(), z.CompressedSize)
	}
	var src, dst []byte
	for off, end := entry.Offset, entry.Offset+entry.Size; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		id := z.SpanAt(off)
		s := z.Spans[id]
		n := min(end, s.Out.End()) - off
		src, dst = sized(src, s.In.Len), sized(dst, n)
		if _, err := layer.ReadAt(src, s.In.Off); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read span %d: %w", id, err)
		}
		if err := z.Verify(id, src); err != nil {
			return err
		}
		if err := z.DecodeRange(dst, id, off-s.Out.Off, src); err != nil {
			return err
		}
		if _, err := w.Write(dst); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// sized returns a buffer of n bytes, p if that has the room.
func sized(p []byte, n int64) []byte {
	if int64(cap(p)) < n {
		return make([]byte, n)
	}
	return p[:n]
}

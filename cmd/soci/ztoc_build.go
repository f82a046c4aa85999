// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/ztoc"
)

func ztocBuildCommand() *cli.Command {
	return &cli.Command{
		Name:      "build",
		Usage:     "make the zTOC of a layer file, without containerd",
		ArgsUsage: "<layer_file>",
		Description: "The layer is a tar or a gzip of one; - stands for standard input.\n" +
			"Prints the digest of the layer and of its zTOC.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write the zTOC to `file`"},
			&cli.Int64Flag{Name: "span-size", Value: ztoc.DefaultSpanSize, Usage: "`bytes` of uncompressed content between checkpoints; 0 means one at every block"},
		},
		Action: action(ztocBuild),
	}
}

func ztocBuild(ctx context.Context, e *env, cmd *cli.Command) error {
	name, out := cmd.Args().First(), cmd.String("output")
	switch {
	case name == "":
		return errors.New("layer file needs to be specified")
	case out == "":
		return errors.New("output file needs to be specified with -o")
	}
	size, err := spanSize(cmd)
	if err != nil {
		return err
	}
	layer, total, err := e.openInput(name)
	if err != nil {
		return err
	}
	defer layer.Close()

	p := e.progress(ctx)
	defer p.done()
	sum := digest.SHA256.Digester()
	count := counter(func(n int) { p.step(filepath.Base(name), total, int64(n)) })
	r := io.TeeReader(layer, io.MultiWriter(sum.Hash(), count))
	z, err := ztoc.Build(ctx, r, ztoc.BuildOptions{SpanSize: size})
	if err != nil {
		return fmt.Errorf("layer %s: %w", name, err)
	}
	b, err := z.Marshal()
	if err != nil {
		return fmt.Errorf("layer %s: %w", name, err)
	}
	err = writeFile(out, 0o644, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
	if err != nil {
		return err
	}
	p.println(fmt.Sprintf("layer %s -> ztoc %s", sum.Digest(), digest.FromBytes(b)))
	return nil
}

// counter is a writer that only counts.
type counter func(n int)

func (c counter) Write(p []byte) (int, error) {
	c(len(p))
	return len(p), nil
}

// openInput opens a file, or standard input for -, and tells its size, 0 if unknown.
func (e *env) openInput(name string) (io.ReadCloser, int64, error) {
	if name == "-" {
		return io.NopCloser(e.in), 0, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, fmt.Errorf("open layer: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = errors.New("it is a directory")
	}
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("open layer %s: %w", name, err)
	}
	return f, info.Size(), nil
}

// writeFile writes a file with the mode perm that gets its name only when it is
// complete.
func writeFile(name string, perm os.FileMode, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".soci-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", name, err)
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

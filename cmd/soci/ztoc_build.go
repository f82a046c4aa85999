// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/cmd/internal/store"
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
	if err := store.CheckFile(out); err != nil {
		return err
	}
	layer, total, err := e.openInput(ctx, name)
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
	err = store.WriteFile(out, 0o644, func(w io.Writer) error {
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

// openInput opens a file, or standard input for -, and tells its size, 0 if
// unknown. A read that waits for a pipe or a terminal ends with ctx.
func (e *env) openInput(ctx context.Context, name string) (io.ReadCloser, int64, error) {
	var f *os.File
	if name == "-" {
		var ok bool
		if f, ok = reopened(e.in); !ok {
			return io.NopCloser(e.in), 0, nil
		}
	} else {
		var err error
		if f, err = os.Open(name); err != nil {
			return nil, 0, fmt.Errorf("open layer: %w", err)
		}
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = errors.New("it is a directory")
	}
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("open layer %s: %w", name, err)
	}
	context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) }) //nolint:errcheck // a file does not wait
	return f, info.Size(), nil
}

// reopened opens anew the pipe or terminal that r is: Go waits for what it opened
// itself in a way that can be ended. Anything else has a position and is left as it is.
func reopened(r io.Reader) (*os.File, bool) {
	in, ok := r.(*os.File)
	if !ok {
		return nil, false
	}
	info, err := in.Stat()
	if err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeCharDevice) == 0 {
		return nil, false
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", in.Fd()), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	return f, err == nil // it may be the terminal of another user
}

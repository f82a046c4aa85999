// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
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
			"Prints the digest of the layer, of its zTOC and of the uncompressed layer (diffID).",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write the zTOC to `file`"},
			&cli.StringFlag{Name: "format", Value: string(ztoc.Format09), Usage: "`form` of the zTOC, 0.9 or compact"},
			&cli.Int64Flag{
				Name: "span-size", Value: ztoc.DefaultSpanSize,
				Usage:       "`bytes` of uncompressed content between checkpoints; 0 means one at every block, in 0.9 alone",
				DefaultText: fmt.Sprintf("%d, compact %d", ztoc.DefaultSpanSize, ztoc.DefaultCompactSpanSize),
			},
			&cli.StringFlag{Name: "compact-output", Usage: "beside the zTOC 0.9 write a compact one to `file`"},
			&cli.Int64Flag{Name: "compact-span-size", Value: ztoc.DefaultCompactSpanSize, Usage: "`bytes` between the checkpoints of that"},
			&cli.StringFlag{Name: "diff-id", Usage: "fail unless the uncompressed layer has this `digest`"},
		},
		Action: action(ztocBuild),
	}
}

// ztocOutput is a zTOC to be made.
type ztocOutput struct {
	format ztoc.Format
	file   string
	digest digest.Digest // when it is made
}

// ztocBuildArgs is what the command line of ztoc build says.
type ztocBuildArgs struct {
	layer   string
	options ztoc.SurveyOptions
	outputs []*ztocOutput
	diffID  digest.Digest // "" means any
}

func parseZTOCBuild(cmd *cli.Command) (*ztocBuildArgs, error) {
	a := &ztocBuildArgs{layer: cmd.Args().First(), diffID: digest.Digest(cmd.String("diff-id"))}
	out, compact := cmd.String("output"), cmd.String("compact-output")
	format, err := ztocFormat(cmd)
	if err != nil {
		return nil, err
	}
	switch {
	case a.layer == "":
		return nil, errors.New("layer file needs to be specified")
	case out == "":
		return nil, errors.New("output file needs to be specified with -o")
	case compact != "" && format == ztoc.FormatCompact:
		return nil, errors.New("--compact-output is only of use with --format 0.9")
	case compact == "" && cmd.IsSet("compact-span-size"):
		return nil, errors.New("--compact-span-size is only of use with --compact-output: --span-size is that of -o")
	}
	if a.diffID != "" {
		if err := a.diffID.Validate(); err != nil || a.diffID.Algorithm() != digest.SHA256 {
			return nil, fmt.Errorf("parse diffID %q: expect sha256: and 64 hex digits", a.diffID)
		}
	}
	a.outputs = []*ztocOutput{{format: format, file: out}}
	switch {
	case format == ztoc.FormatCompact:
		a.options.CompactSpanSize, err = compactSpanSize(cmd, "span-size")
		return a, err
	case compact != "":
		a.outputs = append(a.outputs, &ztocOutput{format: ztoc.FormatCompact, file: compact})
		if a.options.CompactSpanSize, err = compactSpanSize(cmd, "compact-span-size"); err != nil {
			return nil, err
		}
	}
	a.options.SpanSize, err = spanSize(cmd)
	return a, err
}

// checkOutputs refuses, before the work begins, outputs that cannot be written or would take the place of
// the layer or of each other.
func (a *ztocBuildArgs) checkOutputs() error {
	taken := []string{a.layer}
	for _, o := range a.outputs {
		if err := store.CheckFile(o.file); err != nil {
			return err
		}
		for i, name := range taken {
			if !sameFile(name, o.file) {
				continue
			}
			if i == 0 {
				return fmt.Errorf("write %s: it is the layer", o.file)
			}
			return fmt.Errorf("write %s: both zTOCs are to be written to it", o.file)
		}
		taken = append(taken, o.file)
	}
	return nil
}

// sameFile reports whether two names are of one file, there or to be. A device is none.
func sameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	if errX == nil && errY == nil {
		return x.Mode().IsRegular() && os.SameFile(x, y)
	}
	a, errX = filepath.Abs(a)
	b, errY = filepath.Abs(b)
	return errX == nil && errY == nil && a == b
}

func ztocBuild(ctx context.Context, e *env, cmd *cli.Command) error {
	a, err := parseZTOCBuild(cmd)
	if err != nil {
		return err
	}
	if err := a.checkOutputs(); err != nil {
		return err
	}
	layer, total, err := e.openInput(ctx, a.layer)
	if err != nil {
		return err
	}
	defer layer.Close()

	p := e.progress(ctx)
	defer p.done()
	count := counter(func(n int) { p.step(filepath.Base(a.layer), total, int64(n)) })
	s, err := ztoc.NewSurvey(ctx, io.TeeReader(layer, count), a.options)
	if err != nil {
		return fmt.Errorf("layer %s: %w", a.layer, err)
	}
	err = a.write(s)
	if cerr := s.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("layer %s: %w", a.layer, cerr)
	}
	if err != nil {
		return err
	}
	p.println(a.line(s))
	return nil
}

// write writes the zTOCs of the layer surveyed, all or none.
func (a *ztocBuildArgs) write(s *ztoc.Survey) error {
	if d := s.DiffID(); a.diffID != "" && d != a.diffID {
		return fmt.Errorf("layer %s: its diffID is %s, not %s", a.layer, d, a.diffID)
	}
	return writeZTOCs(s, a.outputs)
}

// errOther is why a zTOC is not written when there is nothing wrong with it.
var errOther = errors.New("another zTOC could not be written")

// writeZTOCs writes outs, files at the same time: they get their names when all are complete.
func writeZTOCs(s *ztoc.Survey, outs []*ztocOutput) error {
	var (
		wg, encoded sync.WaitGroup
		failed      atomic.Bool
		errs        = make([]error, len(outs))
	)
	if len(outs) > 1 && slices.ContainsFunc(outs, (*ztocOutput).special) { // both may be the same pipe
		if err := writeZTOCs(s, outs[:1]); err != nil {
			return err
		}
		return writeZTOCs(s, outs[1:])
	}
	encoded.Add(len(outs))
	for i, o := range outs {
		wg.Go(func() {
			done := sync.OnceFunc(encoded.Done)
			defer done()
			errs[i] = store.WriteFile(o.file, 0o644, func(w io.Writer) error {
				err := o.write(s, w)
				if err != nil {
					failed.Store(true)
				}
				done()
				if encoded.Wait(); err == nil && failed.Load() {
					err = errOther
				}
				return err
			})
			if errs[i] != nil {
				failed.Store(true)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, errOther) {
			return err
		}
	}
	return nil
}

// special reports whether the output is not a file, there or to be.
func (o *ztocOutput) special() bool {
	info, err := os.Stat(o.file)
	return err == nil && !info.Mode().IsRegular()
}

// write writes the zTOC to w.
func (o *ztocOutput) write(s *ztoc.Survey, w io.Writer) error {
	encode := s.WriteZTOC
	if o.format == ztoc.FormatCompact {
		encode = s.WriteCompact
	}
	sum := digest.SHA256.Digester()
	if err := encode(io.MultiWriter(w, sum.Hash())); err != nil {
		return err
	}
	o.digest = sum.Digest()
	return nil
}

// line says what was made.
func (a *ztocBuildArgs) line(s *ztoc.Survey) string {
	made := "ztoc " + a.outputs[0].digest.String()
	if a.outputs[0].format == ztoc.FormatCompact {
		made = "compact " + a.outputs[0].digest.String()
	}
	for _, o := range a.outputs[1:] {
		made += ", compact " + o.digest.String()
	}
	return fmt.Sprintf("layer %s -> %s (diffID %s)", s.LayerDigest(), made, s.DiffID())
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

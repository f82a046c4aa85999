// SPDX-License-Identifier: Apache-2.0

package main

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// inflaters are the ways to inflate a gzip file: programs and libraries, each as a
// whole process on one processor that checks the CRC. Those that are not installed are left out.
type inflater struct {
	name string
	args []string
}

// reference is what the others are compared with.
const reference = "igzip -dc"

// inflaters builds inflatebench with each set of tags, and finds the peers.
func (b *bench) inflaters(ctx context.Context) ([]inflater, error) {
	var all []inflater
	for i, v := range []struct{ name, tags string }{
		{kernelBuild, ""},
		{portableBuild, "noasm"},
		{"inflate, without unsafe (nounsafe)", "nounsafe"},
	} {
		path := filepath.Join(b.tmp, fmt.Sprintf("inflatebench%d", i))
		c := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-tags", v.tags, "-o", path, "github.com/seekoci/seekoci/ztoc/internal/inflate/inflatebench")
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build inflatebench: %w: %s", err, lastLine(string(out)))
		}
		all = append(all, inflater{v.name, []string{path}})
	}
	ours := all[0].args[0]
	all = append(all,
		inflater{reference, []string{"igzip", "-dc"}},
		inflater{"libdeflate-gunzip -c", []string{"libdeflate-gunzip", "-c"}},
		inflater{"pigz -dc -p1", []string{"pigz", "-dc", "-p1"}},
		inflater{"gzip -dc", []string{"gzip", "-dc"}},
		inflater{"klauspost/compress", []string{ours, "-by", "klauspost"}},
		inflater{"compress/gzip", []string{ours, "-by", "go"}},
	)
	kept := all[:0]
	for _, v := range all {
		if have(v.args[0]) {
			kept = append(kept, v)
		}
	}
	return kept, nil
}

const (
	kernelBuild   = "inflate, amd64 kernel"
	portableBuild = "inflate, portable Go (noasm)"
)

// inflate measures how fast the file of l is inflated on one processor.
func (b *bench) inflate(ctx context.Context, l *layer) error {
	all, err := b.inflaters(ctx)
	if err != nil {
		return err
	}
	contenders := make([]*contender, len(all))
	for i, v := range all {
		args := append(append([]string{}, v.args...), l.path)
		if err := checkOutput(ctx, l.diffID, args...); err != nil {
			return err
		}
		contenders[i] = program(v.name, 1, args...)
	}
	if err := race(ctx, b.rounds, contenders); err != nil {
		return err
	}
	b.contest(fmt.Sprintf("%s: inflate and check the CRC, one processor, whole process", l.name), megabytes(l.tarSize), contenders, reference)
	ref := byName(contenders, reference)
	b.goal("inflate incl. CRC, portable Go, CPU time of igzip -dc / ours", l, ref.cpu.Ratio(byName(contenders, portableBuild).cpu), want{0.92, 1.0})
	b.goal("inflate incl. CRC, amd64 kernel, CPU time of igzip -dc / ours", l, ref.cpu.Ratio(byName(contenders, kernelBuild).cpu), want{1.0, 1.1})
	return nil
}

// encoders compresses the tar of l in other ways, and measures how fast those are inflated.
func (b *bench) encoders(ctx context.Context, l *layer) error {
	for _, e := range []inflater{
		{"gzip -6", []string{"gzip", "-6", "-c"}},
		{"pigz -6", []string{"pigz", "-6", "-c"}},
		{"igzip -1", []string{"igzip", "-1", "-c"}},
		{"libdeflate-gzip -6", []string{"libdeflate-gzip", "-6", "-c"}},
		{"Go's compress/gzip", nil},
	} {
		if e.args != nil && !have(e.args[0]) {
			continue
		}
		path := filepath.Join(b.tmp, "encoded.tar.gz")
		if err := encode(ctx, e.args, l.path, path); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		other := *l
		other.name, other.path = l.name+" by "+e.name, path
		if err := b.inflate(ctx, &other); err != nil {
			return err
		}
	}
	return nil
}

// encode writes the tar of the gzip file at from to a file, compressed by the program args, or by compress/gzip.
func encode(ctx context.Context, args []string, from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	if args != nil {
		c := exec.CommandContext(ctx, args[0], args[1:]...)
		c.Stdin, c.Stdout, c.Stderr = z, out, os.Stderr
		return c.Run()
	}
	w := gzip.NewWriter(out)
	if _, err := io.Copy(w, z); err != nil {
		return err
	}
	return w.Close()
}

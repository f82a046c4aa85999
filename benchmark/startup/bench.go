// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/benchmark/internal/image"
	"github.com/seekoci/seekoci/benchmark/internal/node"
	"github.com/seekoci/seekoci/benchmark/internal/sandbox"
	"github.com/seekoci/seekoci/benchmark/internal/stat"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// bench is one comparison.
type bench struct {
	dir, bin string
	layers   layers
	rounds   int
	args     []string

	containerd node.Containerd
	image      *image.Image
	ref        string
	output     string // of every container
	index      stat.Series
	legs       [2]leg // full, lazy
}

// leg collects what one way to start takes.
type leg struct {
	name                string
	pull, first, second stat.Series
	ready               stat.Series // pull and first run together
	fetched             stat.Series // MB of layers
}

func (b *bench) run(ctx context.Context, out io.Writer) (err error) {
	if b.containerd, err = node.FindContainerd(""); err != nil {
		return err
	}
	img, err := image.New(filepath.Join(b.dir, "image"))
	if err != nil {
		return err
	}
	for _, l := range b.layers {
		if err := img.Compressed(l); err != nil {
			return err
		}
	}
	if b.image, err = img.Image(ocispec.ImageConfig{Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}}); err != nil {
		return err
	}
	reg := registrytest.New(registrytest.Options{Dir: filepath.Join(b.dir, "registry")})
	defer reg.Close()
	b.ref = reg.Host() + "/startup:1"
	if err := b.image.Push(ctx, b.ref); err != nil {
		return err
	}
	b.legs[0].name, b.legs[1].name = "full pull", "lazy"
	for i := range b.rounds {
		if err := b.makeIndex(ctx, i); err != nil {
			return fmt.Errorf("index the image: %w", err)
		}
		for j, start := range []func(context.Context, *node.Node, *leg) error{b.full, b.lazy} {
			if err := b.node(ctx, fmt.Sprintf("%c%d", "fl"[j], i), func(n *node.Node) error {
				return start(ctx, n, &b.legs[j])
			}); err != nil {
				return fmt.Errorf("%s: %w", b.legs[j].name, err)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d done\n", i+1, b.rounds)
	}
	return b.print(out)
}

// node starts a fresh node and passes it to do. What it kept is deleted after it.
func (b *bench) node(ctx context.Context, name string, do func(*node.Node) error) (err error) {
	dir := filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	n, err := node.Start(ctx, node.Options{Dir: dir, Containerd: b.containerd, Namespace: sandbox.CgroupParent(b.dir), Bin: b.bin})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close(ctx), os.RemoveAll(dir)) }()
	if err := node.DropCaches(); err != nil {
		return err
	}
	return do(n)
}

// makeIndex times soci create; the first round also pushes the index.
func (b *bench) makeIndex(ctx context.Context, round int) error {
	return b.node(ctx, fmt.Sprintf("b%d", round), func(n *node.Node) error {
		if _, err := n.Ctr(ctx, "content", "fetch", "--plain-http", b.ref); err != nil {
			return err
		}
		if err := b.index.Time(func() error {
			_, err := n.Soci(ctx, "create", b.ref)
			return err
		}); err != nil || round > 0 {
			return err
		}
		_, err := n.Soci(ctx, "push", "--plain-http", b.ref)
		return err
	})
}

func (b *bench) full(ctx context.Context, n *node.Node, l *leg) error {
	return b.start(ctx, n, l, node.Overlayfs)
}

func (b *bench) lazy(ctx context.Context, n *node.Node, l *leg) error {
	if err := b.start(ctx, n, l, node.Soci); err != nil {
		return err
	}
	m, err := n.Metrics(ctx)
	if err != nil {
		return err
	}
	if m.SpansFetched() == 0 {
		return errors.New("no span was fetched: the image was not pulled lazily")
	}
	l.fetched = append(l.fetched, float64(m.BytesFetched())/1e6)
	return nil
}

// start pulls and runs the container twice.
func (b *bench) start(ctx context.Context, n *node.Node, l *leg, snapshotter string) error {
	if err := l.pull.Time(func() error { return n.Pull(ctx, b.ref, snapshotter) }); err != nil {
		return err
	}
	for _, s := range []*stat.Series{&l.first, &l.second} {
		r, err := n.Run(ctx, node.Container{Image: b.ref, Snapshotter: snapshotter, Args: b.args})
		if err != nil {
			return err
		}
		if b.output == "" {
			b.output = r.Output
		}
		if r.Output != b.output {
			return fmt.Errorf("the container printed %q, another one %q", r.Output, b.output)
		}
		*s = append(*s, r.Total.Seconds())
	}
	last := len(l.pull) - 1
	l.ready = append(l.ready, l.pull[last]+l.first[last])
	return nil
}

// print prints where and how it was measured, and the medians.
func (b *bench) print(out io.Writer) error {
	var w strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&w, format+"\n", args...) }
	line("command: startup -rounds %d -layer %s %s", b.rounds, strings.Join(baseNames(b.layers), " -layer "), strings.Join(b.args, " "))
	line("machine: %s", stat.Machine())
	line("containerd %s, gzip by %s; registry on loopback, caches dropped before each pull", b.containerd.Version, cmp.Or(node.Decompressor(), "containerd itself"))
	line("image: %d layers, %.1f MB, %.1f MB of files; the containers printed %q", len(b.image.Layers), float64(b.image.CompressedSize())/1e6, float64(b.image.TarSize)/1e6, b.output)
	line("median of %d (minimum-maximum), seconds unless said otherwise\n", b.rounds)
	line("soci create %s\n", b.index)
	line("%-22s %20s %20s", "", b.legs[0].name, b.legs[1].name)
	full, lazy := &b.legs[0], &b.legs[1]
	for _, row := range []struct {
		name       string
		full, lazy stat.Series
	}{
		{"pull", full.pull, lazy.pull},
		{"first run", full.first, lazy.first},
		{"pull + first run", full.ready, lazy.ready},
		{"second run", full.second, lazy.second},
	} {
		line("%-22s %20s %20s", row.name, row.full, row.lazy)
	}
	line("%-22s %20.1f %20s", "layer MB fetched", float64(b.image.CompressedSize())/1e6, lazy.fetched)
	line("\npull + first run: lazy is %.2f times as fast", full.ready.Median()/lazy.ready.Median())
	_, err := io.WriteString(out, w.String())
	return err
}

func baseNames(paths []string) []string {
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = filepath.Base(p)
	}
	return names
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/benchmark/internal/image"
	"github.com/seekoci/seekoci/benchmark/internal/link"
	"github.com/seekoci/seekoci/benchmark/internal/node"
	"github.com/seekoci/seekoci/benchmark/internal/sandbox"
	"github.com/seekoci/seekoci/benchmark/internal/stat"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// The line of the sections link and local.
const (
	lineBandwidth = link.Gigabit
	lineRTT       = 5 * time.Millisecond
)

// noBackground is the snapshotter's configuration where bytes are counted.
const noBackground = "[background_fetch]\n  disable = true\n"

// The repositories of the image: the same image, with other indexes.
const (
	repoOld     = "old:1"     // zTOCs 0.9 alone
	repoCompact = "compact:1" // compact ones as well
	repoProfile = "profile:1" // and a recorded profile
)

// bench is one run of the program.
type bench struct {
	dir, bin string
	layers   layers
	rounds   int
	args     []string
	wanted   choice

	containerd node.Containerd
	image      *image.Image
	registry   *registrytest.Server
	line       *link.Link // of 1 Gbit/s
	noRange    *link.Link // a registry that ignores ranges
	content    *content
	nodes      int

	output string // of every container
	sums   sums   // of every file tree
	legs   legs
	bound  bounds
	figures
}

// legs are the contenders of pull and run.
type legs struct {
	overlayfs, old, compact, profile              leg // on loopback
	lineOverlayfs, lineOld, lineCompact, lineProf leg // over the line
	quiet, noRange                                leg // without background fetch; without ranges
}

// leg is what one way to start takes.
type leg struct {
	name                string
	pull, first, second stat.Series // seconds
	ready               stat.Series // pull and first run together
	layers              stat.Series // MB of layers fetched when the first run had ended, as the snapshotter says
	sent                stat.Series // MB of everything that had left the registry by then
	requests            stat.Series // for spans, by then
}

func (b *bench) run(ctx context.Context, out io.Writer) (err error) {
	if err := b.setUp(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.tearDown()) }()
	for _, once := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"touch the pages", b.touch}, {"record a profile", b.record},
	} {
		if err := once.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", once.name, err)
		}
	}
	for i := range b.rounds {
		if err := b.round(ctx, i); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "round %d of %d done\n", i+1, b.rounds)
	}
	if b.wanted["norange"] {
		if err := b.lazy(ctx, &b.legs.noRange, b.noRange.Host()+"/"+repoCompact, ""); err != nil {
			return err
		}
	}
	return b.print(out)
}

// round measures everything that is wanted once, and in the first round what takes long and has no goal.
func (b *bench) round(ctx context.Context, i int) error {
	host, line := b.registry.Host()+"/", b.line.Host()+"/"
	w := b.wanted
	for _, step := range []struct {
		wanted bool
		run    func() error
	}{
		{w.any("start", "profile", "link"), func() error { return b.measureBounds(ctx) }},
		{w.any("start", "profile", "link", "read", "warm", "bytes"), func() error { return b.native(ctx) }},
		{w.any("start", "warm"), func() error { return b.served(ctx) }},
		{w["start"], func() error { return b.lazy(ctx, &b.legs.old, host+repoOld, "") }},
		{w["profile"], func() error { return b.lazy(ctx, &b.legs.profile, host+repoProfile, "") }},
		{w["link"] && i == 0, func() error { return b.overlayfs(ctx, &b.legs.lineOverlayfs, line+repoOld) }},
		{w["link"], func() error { return b.lazy(ctx, &b.legs.lineCompact, line+repoCompact, "") }},
		{w["link"], func() error { return b.lazy(ctx, &b.legs.lineOld, line+repoOld, "") }},
		{w["link"] && w["profile"], func() error { return b.lazy(ctx, &b.legs.lineProf, line+repoProfile, "") }},
		{w["bytes"], func() error { return b.lazy(ctx, &b.legs.quiet, host+repoCompact, noBackground) }},
		{w["random"], func() error { return b.random(ctx) }},
		{w["read"], func() error { return b.readLazily(ctx) }},
		{w["local"], func() error { return b.local(ctx) }},
		{w["many"], func() error { return b.many(ctx) }},
	} {
		if !step.wanted {
			continue
		}
		if err := step.run(); err != nil {
			return err
		}
	}
	return nil
}

// setUp makes the image, the registry, the lines and the indexes.
func (b *bench) setUp(ctx context.Context) (err error) {
	if _, err := exec.LookPath("igzip"); err != nil {
		return errors.New("igzip is not installed (Debian: apt-get install isal)")
	}
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
	// Requests to this host get no ranges. It is known before the first of them comes.
	var noRangeHost string
	b.registry = registrytest.New(registrytest.Options{
		Dir: filepath.Join(b.dir, "registry"),
		Hook: func(_ http.ResponseWriter, r *registrytest.Request) bool {
			if r.Host == noRangeHost {
				r.Header.Del("Range")
			}
			return false
		},
	})
	if b.line, err = link.New(b.registry.Host(), link.Options{Bandwidth: lineBandwidth, RTT: lineRTT}); err != nil {
		return err
	}
	if b.noRange, err = link.New(b.registry.Host(), link.Options{}); err != nil {
		return err
	}
	noRangeHost = b.noRange.Host()
	for l, name := range map[*leg]string{
		&b.legs.overlayfs: "overlayfs", &b.legs.old: "lazy, 0.9", &b.legs.compact: "lazy, compact", &b.legs.profile: "lazy, profile",
		&b.legs.lineOverlayfs: "overlayfs, line", &b.legs.lineOld: "lazy, 0.9, line", &b.legs.lineCompact: "lazy, compact, line", &b.legs.lineProf: "lazy, profile, line",
		&b.legs.quiet: "lazy, compact, no background", &b.legs.noRange: "lazy, compact, no ranges",
	} {
		l.name = name
	}
	if err := b.makeIndex(ctx, repoOld); err != nil {
		return fmt.Errorf("index the image: %w", err)
	}
	if err := b.makeIndex(ctx, repoCompact, "--compact"); err != nil {
		return fmt.Errorf("index the image: %w", err)
	}
	b.content, err = readContent(ctx, b.registry.Host()+"/"+repoCompact, b.image)
	return err
}

func (b *bench) tearDown() error {
	err := errors.Join(b.line.Close(), b.noRange.Close())
	b.registry.Close()
	return err
}

// node starts a fresh node, empties the caches and passes it to do. What it kept is deleted after it.
func (b *bench) node(ctx context.Context, config string, do func(*node.Node) error) (err error) {
	b.nodes++
	dir := filepath.Join(b.dir, fmt.Sprint("n", b.nodes))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	n, err := node.Start(ctx, node.Options{Dir: dir, Containerd: b.containerd, Namespace: sandbox.CgroupParent(b.dir), Bin: b.bin, Config: config})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close(ctx), os.RemoveAll(dir)) }()
	if err := node.DropCaches(); err != nil {
		return err
	}
	return do(n)
}

// makeIndex pushes the image and makes and pushes its index.
func (b *bench) makeIndex(ctx context.Context, repo string, args ...string) error {
	ref := b.registry.Host() + "/" + repo
	if err := b.image.Push(ctx, ref); err != nil {
		return err
	}
	return b.node(ctx, "", func(n *node.Node) error {
		if _, err := n.Ctr(ctx, "content", "fetch", "--plain-http", ref); err != nil {
			return err
		}
		if _, err := n.Soci(ctx, append(append([]string{"create"}, args...), ref)...); err != nil {
			return err
		}
		_, err := n.Soci(ctx, "push", "--plain-http", ref)
		return err
	})
}

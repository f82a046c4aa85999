// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/ztoc"
)

// maxListFile bounds the file of --prefetch-files-json, in bytes.
const maxListFile = 16 << 20

// optimizationXattr is the one optimization there is.
const optimizationXattr = "xattr"

func platformFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "all-platforms", Usage: "take all platforms of the image that are there"},
		&cli.StringSliceFlag{Name: "platform", Aliases: []string{"p"}, Usage: "take this `platform`, such as linux/arm64; may be repeated"},
	}
}

func ztocFlags() []cli.Flag {
	return []cli.Flag{
		&cli.Int64Flag{Name: "span-size", Value: ztoc.DefaultSpanSize, Usage: "`bytes` of uncompressed content between checkpoints; 0 means one at every block"},
		&cli.BoolFlag{Name: "compact", Usage: "add a compact zTOC of each layer, which this project's daemon prefers; others pass over it"},
		&cli.Int64Flag{Name: "compact-span-size", Value: ztoc.DefaultCompactSpanSize, Usage: "`bytes` of uncompressed content between the checkpoints of compact zTOCs"},
		&cli.Int64Flag{Name: "min-layer-size", Value: index.DefaultMinLayerSize, Usage: "`bytes` of the smallest layer that gets a zTOC"},
		&cli.StringSliceFlag{Name: "optimizations", Usage: "experimental `name`: xattr"},
		&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "make zTOCs anew that exist already"},
	}
}

func prefetchFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "prefetch-file", Usage: "`path` in the image that is fetched when the image is mounted; may be repeated"},
		&cli.StringFlag{Name: "prefetch-files-json", Usage: "`file` with a JSON array of such paths"},
	}
}

// registryFlags are the flags of push. All but two are accepted and have no
// effect, as in the incumbent: nerdctl passes some of them.
func registryFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "skip-verify", Aliases: []string{"k"}, Usage: "accepted, without effect"},
		&cli.BoolFlag{Name: "plain-http", Usage: "speak http with the registry"},
		&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "`user[:password]` of the registry"},
		&cli.StringFlag{Name: "refresh", Usage: "accepted, without effect"},
		&cli.StringFlag{Name: "hosts-dir", Usage: "accepted, without effect"},
		&cli.StringFlag{Name: "tlscacert", Usage: "accepted, without effect"},
		&cli.StringFlag{Name: "tlscert", Usage: "accepted, without effect"},
		&cli.StringFlag{Name: "tlskey", Usage: "accepted, without effect"},
		&cli.BoolFlag{Name: "http-dump", Usage: "accepted, without effect"},
		&cli.BoolFlag{Name: "http-trace", Usage: "accepted, without effect"},
	}
}

// snapshotterFlag is accepted by push and has no effect.
func snapshotterFlag() cli.Flag {
	return &cli.StringFlag{Name: "snapshotter", Usage: "accepted, without effect", Sources: cli.EnvVars("CONTAINERD_SNAPSHOTTER")}
}

// concat joins groups of flags.
func concat(groups ...[]cli.Flag) []cli.Flag {
	var all []cli.Flag
	for _, g := range groups {
		all = append(all, g...)
	}
	return all
}

// buildOptions makes index options of the zTOC and prefetch flags.
func buildOptions(cmd *cli.Command) (index.BuildOptions, error) {
	var opts index.BuildOptions
	minSize := cmd.Int64("min-layer-size")
	if minSize < 0 {
		return opts, errors.New("min layer size must be >= 0")
	}
	if opts.MinLayerSize = minSize; minSize == 0 {
		opts.MinLayerSize = -1
	}
	var err error
	if opts.ZTOC.SpanSize, err = spanSize(cmd); err != nil {
		return opts, err
	}
	if cmd.Bool("compact") {
		if opts.CompactSpanSize, err = compactSpanSize(cmd, "compact-span-size"); err != nil {
			return opts, err
		}
	} else if cmd.IsSet("compact-span-size") {
		return opts, errors.New("--compact-span-size is only of use with --compact")
	}
	for _, o := range cmd.StringSlice("optimizations") {
		if o != optimizationXattr {
			return opts, fmt.Errorf("unknown optimization %q: expect %s", o, optimizationXattr)
		}
		opts.DisableXattrs = true
	}
	opts.Prefetch, err = prefetchFiles(cmd)
	return opts, err
}

// spanSize returns the span size in the form of ztoc.BuildOptions.
func spanSize(cmd *cli.Command) (int64, error) {
	switch n := cmd.Int64("span-size"); {
	case n < 0:
		return 0, errors.New("span size must be >= 0")
	case n == 0:
		return ztoc.EveryBlock, nil
	default:
		return n, nil
	}
}

// compactSpanSize returns the span size of compact zTOCs that a flag says, or its default.
func compactSpanSize(cmd *cli.Command, flag string) (int64, error) {
	if !cmd.IsSet(flag) {
		return ztoc.DefaultCompactSpanSize, nil
	}
	n := cmd.Int64(flag)
	if n <= 0 {
		return 0, fmt.Errorf("span size of a compact zTOC must be > 0: %s %d", flag, n)
	}
	return n, nil
}

// ztocFormat returns the format that --format says.
func ztocFormat(cmd *cli.Command) (ztoc.Format, error) {
	switch f := ztoc.Format(cmd.String("format")); f {
	case ztoc.Format09, ztoc.FormatCompact:
		return f, nil
	default:
		return "", fmt.Errorf("unknown format %q: expect %s or %s", f, ztoc.Format09, ztoc.FormatCompact)
	}
}

// prefetchFiles returns the paths of both prefetch flags.
func prefetchFiles(cmd *cli.Command) ([]string, error) {
	files := cmd.StringSlice("prefetch-file")
	if name := cmd.String("prefetch-files-json"); name != "" {
		more, err := readList(name)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	var paths []string
	for _, f := range files {
		if f = strings.TrimSpace(f); f != "" {
			paths = append(paths, f)
		}
	}
	return paths, nil
}

// readList reads a file that holds a JSON array of strings.
func readList(name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read prefetch list: %w", err)
	}
	defer f.Close()
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(io.LimitReader(f, maxListFile+1)); err != nil {
		return nil, fmt.Errorf("read prefetch list: %w", err)
	}
	if buf.Len() > maxListFile {
		return nil, fmt.Errorf("read prefetch list %s: more than %d bytes", name, maxListFile)
	}
	var list []string
	if err := json.Unmarshal(buf.Bytes(), &list); err != nil {
		return nil, fmt.Errorf("decode prefetch list %s: expect a JSON array of strings: %w", name, err)
	}
	return list, nil
}

// selection says which platforms of an image are meant.
type selection struct {
	all  bool
	list []ocispec.Platform // in order; empty means the command's default
}

// platformSelection reads the platform flags.
func platformSelection(cmd *cli.Command) (selection, error) {
	if cmd.Bool("all-platforms") {
		return selection{all: true}, nil
	}
	var s selection
	for _, name := range cmd.StringSlice("platform") {
		p, err := platforms.Parse(name)
		if err != nil {
			return s, fmt.Errorf("parse platform %q: %w", name, err)
		}
		s.list = append(s.list, p)
	}
	return s, nil
}

// orHost is s, or the host's platform where s says nothing.
func (s selection) orHost() selection {
	if !s.all && len(s.list) == 0 {
		s.list = []ocispec.Platform{platforms.DefaultSpec()}
	}
	return s
}

// manifests reads which manifests the image ref, target in the store, has and
// returns those of the selected platforms.
func (s selection) manifests(ctx context.Context, from index.Fetcher, ref string, target ocispec.Descriptor) ([]index.PlatformManifest, error) {
	all, err := index.Manifests(ctx, from, target)
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", ref, err)
	}
	return s.of(ref, all)
}

// of returns the manifests that s means of those of image name.
func (s selection) of(name string, manifests []index.PlatformManifest) ([]index.PlatformManifest, error) {
	var picked []index.PlatformManifest
	if s.all {
		for _, m := range manifests {
			if !m.Missing {
				picked = append(picked, m)
			}
		}
		if len(picked) == 0 {
			return nil, fmt.Errorf("image %s: no platform of it is in the content store", name)
		}
		return picked, nil
	}
	for _, p := range s.list {
		m, err := pick(name, manifests, p)
		if err != nil {
			return nil, err
		}
		picked = append(picked, m)
	}
	return picked, nil
}

// pick returns the manifest that suits platform p best.
func pick(name string, manifests []index.PlatformManifest, p ocispec.Platform) (index.PlatformManifest, error) {
	match := platforms.Only(p)
	var best *index.PlatformManifest
	for i, m := range manifests {
		if match.Match(m.Platform) && (best == nil || match.Less(m.Platform, best.Platform)) {
			best = &manifests[i]
		}
	}
	switch {
	case best == nil:
		return index.PlatformManifest{}, fmt.Errorf("image %s: no manifest for platform %s", name, platforms.FormatAll(p))
	case best.Missing:
		return index.PlatformManifest{}, fmt.Errorf("image %s: manifest %s for platform %s is not in the content store: pull that platform first",
			name, best.Manifest.Digest, platforms.FormatAll(p))
	}
	return *best, nil
}

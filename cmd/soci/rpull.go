// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/registry"
)

// Labels that containerd hands from a layer's descriptor to the snapshotter,
// beside those of containerd's own pkg/snapshotters, and the one that the
// snapshotter gives to a lazy layer.
const (
	labelIndexDigest = "containerd.io/snapshot/remote/soci.index.digest"
	labelLayerSize   = "containerd.io/snapshot/remote/soci.size"
	labelLayerSizes  = "containerd.io/snapshot/remote/image.layers.size"
	labelLazy        = "containerd.io/snapshot/remote"
)

func rpullCommand() *cli.Command {
	return &cli.Command{
		Name:      "rpull",
		Usage:     "pull an image into containerd, its layers lazily",
		ArgsUsage: "<image_ref>",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "soci-index-digest", Usage: "use the SOCI index with this `digest`"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "`user[:password]` of the registry"},
			&cli.BoolFlag{Name: "plain-http", Usage: "speak http with the registry"},
			&cli.StringFlag{Name: "hosts-dir", Usage: "`directory` of registry configuration in containerd's form"},
			&cli.StringFlag{Name: "platform", Aliases: []string{"p"}, Usage: "pull this `platform` of the image (default: the host's)"},
			&cli.StringFlag{Name: "snapshotter", Value: "soci", Usage: "unpack through this `snapshotter`", Sources: cli.EnvVars("CONTAINERD_SNAPSHOTTER")},
		},
		Action: action(rpull),
	}
}

func rpull(ctx context.Context, e *env, cmd *cli.Command) error {
	arg := cmd.Args().First()
	if arg == "" {
		return errors.New("image needs to be specified")
	}
	named, err := reference.ParseDockerRef(arg)
	if err != nil {
		return fmt.Errorf("parse image reference %q: %w", arg, err)
	}
	ref := named.String()
	want := digest.Digest(cmd.String("soci-index-digest"))
	if want != "" {
		if err := want.Validate(); err != nil {
			return fmt.Errorf("parse index digest %q: %w", want, err)
		}
	}
	match := platforms.Default()
	if name := cmd.String("platform"); name != "" {
		p, err := platforms.Parse(name)
		if err != nil {
			return fmt.Errorf("parse platform %q: %w", name, err)
		}
		match = platforms.Only(p)
	}
	resolver, err := newResolver(ctx, cmd, ref)
	if err != nil {
		return err
	}
	c, err := e.containerd(ctx)
	if err != nil {
		return err
	}
	// The client would make a lease too, but leave it behind when it is interrupted.
	ctx, release, err := e.lease(ctx)
	if err != nil {
		return err
	}
	defer release()
	snapshotter := cmd.String("snapshotter")
	p := e.progress(ctx)
	var w watcher
	stop := w.watch(ctx, c.ContentStore(), p)
	img, err := c.Pull(ctx, ref,
		containerd.WithImageHandler(w.handler()),
		containerd.WithPlatformMatcher(match),
		containerd.WithResolver(resolver),
		containerd.WithPullUnpack,
		containerd.WithPullSnapshotter(snapshotter),
		containerd.WithImageHandlerWrapper(layerLabels(ref, want)))
	stop()
	p.done()
	if err != nil {
		return fmt.Errorf("pull %s with snapshotter %s: %w", ref, snapshotter, err)
	}
	return e.reportLayers(ctx, c, img, snapshotter)
}

// newResolver makes the resolver of the registry flags.
func newResolver(ctx context.Context, cmd *cli.Command, ref string) (remotes.Resolver, error) {
	cred, err := credentials(cmd, ref)
	if err != nil {
		return nil, err
	}
	opts := config.HostOptions{
		Credentials: func(host string) (string, string, error) {
			if host == "registry-1.docker.io" {
				host = "docker.io"
			}
			c, err := cred(ctx, host)
			if err != nil {
				return "", "", err
			}
			return containerdCredential(c)
		},
	}
	if dir := cmd.String("hosts-dir"); dir != "" {
		opts.HostDir = config.HostDirFromRoot(dir)
	}
	if cmd.Bool("plain-http") {
		opts.DefaultScheme = "http"
	}
	return docker.NewResolver(docker.ResolverOptions{Hosts: config.ConfigureHosts(ctx, opts)}), nil
}

// containerdCredential puts c in the form of containerd's resolver, in which a
// secret without a user is a refresh token.
func containerdCredential(c registry.Credential) (user, secret string, err error) {
	if c.RefreshToken != "" {
		return "", c.RefreshToken, nil
	}
	return c.Username, c.Password, nil
}

// layerLabels returns the wrapper that gives each layer of an image what the
// snapshotter needs to know of it. Without a want the snapshotter looks for the
// index by itself.
func layerLabels(ref string, want digest.Digest) func(images.Handler) images.Handler {
	basic := snapshotters.AppendInfoHandlerWrapper(ref)
	return func(h images.Handler) images.Handler {
		inner := basic(h)
		return images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
			children, err := inner.Handle(ctx, desc)
			if err != nil || !images.IsManifestType(desc.MediaType) {
				return children, err
			}
			var sizes []string // of the layers from the current one on
			for i := len(children) - 1; i >= 0; i-- {
				c := &children[i]
				if !images.IsLayerType(c.MediaType) {
					continue
				}
				size := strconv.FormatInt(c.Size, 10)
				sizes = append([]string{size}, sizes...)
				c.Annotations[labelLayerSize] = size
				// The list of digests is cut at the limit of a label; that of sizes must be as long.
				n := strings.Count(c.Annotations[snapshotters.TargetImageLayersLabel], ",") + 1
				c.Annotations[labelLayerSizes] = strings.Join(sizes[:min(n, len(sizes))], ",")
				if want != "" {
					c.Annotations[labelIndexDigest] = want.String()
				}
			}
			return children, nil
		})
	}
}

// reportLayers says of each layer whether it is lazy.
func (e *env) reportLayers(ctx context.Context, c *containerd.Client, img containerd.Image, snapshotter string) error {
	manifest, err := images.Manifest(ctx, c.ContentStore(), img.Target(), img.Platform())
	if err != nil {
		return fmt.Errorf("read image %s: %w", img.Name(), err)
	}
	diffIDs, err := img.RootFS(ctx)
	if err != nil {
		return fmt.Errorf("read image %s: %w", img.Name(), err)
	}
	sn := c.SnapshotService(snapshotter)
	lazy := 0
	for i, layer := range manifest.Layers {
		if i >= len(diffIDs) {
			return fmt.Errorf("read image %s: %d layers, but %d diff IDs", img.Name(), len(manifest.Layers), len(diffIDs))
		}
		info, err := sn.Stat(ctx, identity.ChainID(diffIDs[:i+1]).String())
		if err != nil {
			return fmt.Errorf("find snapshot of layer %s: %w", layer.Digest, err)
		}
		how := "unpacked"
		if _, ok := info.Labels[labelLazy]; ok {
			how = "lazy"
			lazy++
		}
		fmt.Fprintf(e.out, "layer %s %s\n", layer.Digest, how)
	}
	_, err = fmt.Fprintf(e.out, "pulled %s, %d of %d layers lazy\n", img.Name(), lazy, len(manifest.Layers))
	return err
}

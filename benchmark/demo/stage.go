// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/seekoci/seekoci/benchmark/internal/image"
	"github.com/seekoci/seekoci/benchmark/internal/node"
	"github.com/seekoci/seekoci/benchmark/internal/sandbox"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// builtContainerd is where make test puts the containerd it builds, for machines without one on PATH.
const builtContainerd = "out/containerd2"

// stage is what the three nodes share.
type stage struct {
	dir, bin   string
	out        io.Writer
	containerd node.Containerd
	registry   *registrytest.Server
	ref        string
	image      *image.Image
}

// leg is how one node did.
type leg struct {
	pull    time.Duration
	version node.Result // go version
	compile node.Result // go run .
	wire    int64       // bytes that left the registry: manifests, layers, index and zTOCs
	layers  int64       // bytes of whole layers among them, in a full pull
	fetched fetched     // of lazy layers
}

// fetched is what the snapshotter's metrics say.
type fetched struct {
	bytes, spans, allSpans int64
}

func newStage(dir, bin string, out io.Writer) (*stage, error) {
	containerd, err := node.FindContainerd("")
	if err != nil {
		var err2 error
		if containerd, err2 = node.FindContainerd(builtContainerd); err2 != nil {
			return nil, err
		}
	}
	s := &stage{dir: dir, bin: bin, out: out, containerd: containerd}
	s.registry = registrytest.New(registrytest.Options{Dir: filepath.Join(dir, "registry")})
	s.ref = s.registry.Host() + "/go:" + strings.TrimPrefix(runtime.Version(), "go")
	return s, nil
}

func (s *stage) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

// node starts a fresh node of that name and passes it to do. What goes wrong at its end is an error too.
func (s *stage) node(ctx context.Context, name string, do func(*node.Node) error) (err error) {
	dir := filepath.Join(s.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	n, err := node.Start(ctx, node.Options{Dir: dir, Containerd: s.containerd, Namespace: sandbox.CgroupParent(s.dir), Bin: s.bin, Echo: s.out})
	if err != nil {
		return err
	}
	defer func() {
		if e := n.Close(ctx); e != nil {
			err = errors.Join(err, fmt.Errorf("stop node %s: %w", name, e))
		}
	}()
	return do(n)
}

// makeImage makes the image and pushes it.
func (s *stage) makeImage(ctx context.Context) (err error) {
	s.say("Making an image of this machine's Go tree...")
	if s.image, err = image.Go(ctx, filepath.Join(s.dir, "image")); err != nil {
		return fmt.Errorf("make the image: %w", err)
	}
	if err := s.image.Push(ctx, s.ref); err != nil {
		return err
	}
	s.say("%s: %d layers, %s, %s of files\n", s.ref, len(s.image.Layers), size(s.image.CompressedSize()), size(s.image.TarSize))
	return nil
}

// index makes and pushes the SOCI index on the build machine.
func (s *stage) index(ctx context.Context) error {
	s.say("A build machine indexes the image; the image itself stays as it is:")
	return s.node(ctx, "b", func(n *node.Node) error {
		if _, err := n.Ctr(ctx, "content", "fetch", "--plain-http", s.ref); err != nil {
			return err
		}
		for _, args := range [][]string{{"create", s.ref}, {"index", "list"}, {"push", "--plain-http", s.ref}} {
			out, err := n.Soci(ctx, args...)
			if err != nil {
				return err
			}
			s.say("%s", strings.TrimRight(out, "\n"))
		}
		return nil
	})
}

// full pulls with overlayfs, as everybody does.
func (s *stage) full(ctx context.Context) (l leg, err error) {
	s.say("\nA fresh machine pulls all of it with overlayfs (%s):", decompressor())
	err = s.node(ctx, "f", func(n *node.Node) error {
		return s.measure(ctx, n, &l, node.Overlayfs)
	})
	l.layers = s.image.CompressedSize()
	return l, err
}

// lazy pulls with our snapshotter.
func (s *stage) lazy(ctx context.Context) (l leg, err error) {
	s.say("\nAnother fresh machine pulls it lazily:")
	err = s.node(ctx, "l", func(n *node.Node) error {
		if err := s.measure(ctx, n, &l, node.Soci); err != nil {
			return err
		}
		m, err := n.Metrics(ctx)
		if err != nil {
			return err
		}
		l.fetched = fetched{bytes: m.BytesFetched(), spans: m.SpansFetched(), allSpans: m.Spans()}
		if l.fetched.spans == 0 {
			return fmt.Errorf("no span was fetched: the image was not pulled lazily; the snapshotter says:\n%s", n.SnapshotterLogTail())
		}
		return nil
	})
	return l, err
}

// measure pulls and runs both containers, with cold caches.
func (s *stage) measure(ctx context.Context, n *node.Node, l *leg, snapshotter string) (err error) {
	if err := node.DropCaches(); err != nil {
		return err
	}
	before := wire(s.registry.Stats())
	start := time.Now()
	if err := n.Pull(ctx, s.ref, snapshotter); err != nil {
		return err
	}
	l.pull = time.Since(start)
	run := func(args ...string) (node.Result, error) {
		r, err := n.Run(ctx, node.Container{Image: s.ref, Snapshotter: snapshotter, Args: args})
		s.say("%s", strings.TrimRight(r.Output, "\n"))
		return r, err
	}
	if l.version, err = run("go", "version"); err != nil {
		return err
	}
	if l.compile, err = run("go", "run", "."); err != nil {
		return err
	}
	l.wire = wire(s.registry.Stats()) - before
	return nil
}

// wire is what has left the registry, manifests and blobs.
func wire(s registrytest.Stats) int64 {
	return s.Manifest.Bytes + s.Referrers.Bytes + s.Blob.Bytes + s.Range.Bytes
}

// decompressor says what containerd unpacks gzip with.
func decompressor() string {
	if name := node.Decompressor(); name != "" {
		return "containerd unpacks with " + name
	}
	return "containerd unpacks by itself, neither igzip nor unpigz being installed"
}

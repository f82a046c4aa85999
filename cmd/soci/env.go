// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/cmd/internal/artifacts"
	"github.com/seekoci/seekoci/cmd/internal/store"
	"github.com/seekoci/seekoci/index"
)

// The values of --content-store.
const (
	storeContainerd = "containerd"
	storeSOCI       = "soci"
)

// cleanupTimeout bounds what is done after a command, interrupted or not.
const cleanupTimeout = 10 * time.Second

// contentStore is where indexes and zTOCs are kept. It satisfies index.Store
// and artifacts.Content.
type contentStore interface {
	index.Store
	Delete(ctx context.Context, dgst digest.Digest) error
	Blobs(ctx context.Context) iter.Seq2[ocispec.Descriptor, error]
}

// env is what commands share, opened when first asked for.
type env struct {
	address   string
	namespace string
	root      string
	useSOCI   bool
	debug     bool
	timeout   time.Duration // of the command; 0 means none
	in        io.Reader
	out       *output
	err       io.Writer

	client *containerd.Client
}

func newEnv(cmd *cli.Command) (*env, error) {
	e := &env{
		address:   strings.TrimPrefix(cmd.String("address"), "unix://"),
		namespace: cmd.String("namespace"),
		root:      cmd.String("root"),
		debug:     cmd.Bool("debug"),
		timeout:   cmd.Duration("timeout"),
		in:        cmd.Root().Reader,
		out:       &output{w: cmd.Root().Writer},
		err:       cmd.Root().ErrWriter,
	}
	if !e.debug {
		// The libraries of containerd log what they then return as an error.
		if err := log.SetLevel("panic"); err != nil {
			return nil, err
		}
	}
	switch s := cmd.String("content-store"); s {
	case storeContainerd:
	case storeSOCI:
		e.useSOCI = true
	default:
		return nil, fmt.Errorf("unknown content store %q: expect containerd or soci", s)
	}
	return e, nil
}

// output is standard output. It notes the first error: of a command whose lines
// got lost nobody should believe that all is well.
type output struct {
	w   io.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil && o.err == nil {
		o.err = err
	}
	return n, err
}

// inNamespace returns ctx with the namespace of the containerd calls.
func (e *env) inNamespace(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, e.namespace)
}

// close ends the connection to containerd and returns the first error of standard output.
func (e *env) close() error {
	if e.client != nil {
		if err := e.client.Close(); err != nil {
			return err
		}
	}
	return e.out.err
}

// containerd connects to containerd.
func (e *env) containerd(ctx context.Context) (*containerd.Client, error) {
	if e.client != nil {
		return e.client, nil
	}
	// The client connects in the background and again and again; a dial of our
	// own says at once and exactly what is wrong.
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", e.address)
	if err != nil {
		return nil, fmt.Errorf("connect to containerd: %w", err)
	}
	conn.Close()
	c, err := containerd.New(e.address)
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", e.address, err)
	}
	e.client = c
	return c, nil
}

// images returns containerd's content store, where images are.
func (e *env) images(ctx context.Context) (*store.Containerd, error) {
	c, err := e.containerd(ctx)
	if err != nil {
		return nil, err
	}
	return store.NewContainerd(c.ContentStore()), nil
}

// makeRoot makes the root directory, but not its parent.
func (e *env) makeRoot() error {
	if err := os.Mkdir(e.root, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make root directory: %w", err)
	}
	return nil
}

// store opens the content store that --content-store names.
func (e *env) store(ctx context.Context) (contentStore, error) {
	if !e.useSOCI {
		return e.images(ctx)
	}
	return e.layout(ctx)
}

// db is the artifacts database.
func (e *env) db() (artifacts.DB, error) {
	if err := e.makeRoot(); err != nil {
		return artifacts.DB{}, err
	}
	db := artifacts.DB{Path: filepath.Join(e.root, "artifacts.db")}
	if e.timeout > 0 {
		db.Timeout = min(e.timeout, artifacts.DefaultTimeout)
	}
	return db, nil
}

// image finds an image in containerd: under the name ref, or under the full
// name that docker and nerdctl make of it.
func (e *env) image(ctx context.Context, ref string) (images.Image, error) {
	c, err := e.containerd(ctx)
	if err != nil {
		return images.Image{}, err
	}
	img, err := c.ImageService().Get(ctx, ref)
	if errdefs.IsNotFound(err) {
		named, perr := reference.ParseDockerRef(ref)
		if perr == nil && named.String() != ref {
			full, ferr := c.ImageService().Get(ctx, named.String())
			if !errdefs.IsNotFound(ferr) {
				img, err = full, ferr
			}
		}
	}
	if errdefs.IsNotFound(err) {
		return images.Image{}, fmt.Errorf("find image %s: not in namespace %q of containerd at %s: %w", ref, e.namespace, e.address, errdefs.ErrNotFound)
	}
	if err != nil {
		return images.Image{}, fmt.Errorf("find image %s: %w", ref, err)
	}
	return img, nil
}

// lease protects what is written to containerd until the returned function ends it.
func (e *env) lease(ctx context.Context) (context.Context, func(), error) {
	c, err := e.containerd(ctx)
	if err != nil {
		return ctx, nil, err
	}
	lctx, done, err := c.WithLease(ctx)
	if err != nil {
		return ctx, nil, fmt.Errorf("make lease: %w", err)
	}
	return lctx, func() {
		dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		if err := done(dctx); err != nil {
			fmt.Fprintf(e.err, "soci: end lease, it expires by itself: %v\n", err)
		}
	}, nil
}

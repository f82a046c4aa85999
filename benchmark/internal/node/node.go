// SPDX-License-Identifier: Apache-2.0

// Package node runs a whole node below one directory: containerd, our
// snapshotter and a registry, configured as a user would, apart from the host's.
//
// [Start] starts a [Node]; [Node.Soci] and [Node.Ctr] are the command lines a user would
// type; [Node.Run] runs a container and takes its time.
//
//	n, err := node.Start(ctx, node.Options{Dir: dir, Containerd: debian, Bin: "bin"})
//	defer n.Close(ctx)
//	_, err = n.Soci(ctx, "image", "rpull", "--plain-http", ref)
//	run, err := n.Run(ctx, node.Container{Image: ref, Snapshotter: node.Soci, Args: []string{"go", "version"}})
//
// # Limits
//
// Meant to be used inside the sandbox package: containerd 1.6 keeps the sockets of its shims
// below /run/containerd/s whatever the configuration says. The directory's name must
// be short (60 bytes), because unix socket paths are.
//
// # Decisions
//
//   - The real binaries by their real command lines, not their packages: what a user's shell does is what is tested.
//   - [Node.Close] reports what it finds left over (mounts, processes that had to be killed) as an error, so
//     that a leak fails a test even though the sandbox would hide it.
package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"
)

// The two snapshotters of a node.
const (
	Soci      = "soci"
	Overlayfs = "overlayfs"
)

// Options configures Start.
type Options struct {
	Dir        string // existing, empty, at most 60 bytes long
	Containerd Containerd
	Namespace  string    // of containerd, and name of the containers' cgroup; "" means the last element of Dir
	Bin        string    // where soci and soci-snapshotter-grpc are; "" means that only overlayfs is used
	Config     string    // appended to the snapshotter's config.toml
	Root       string    // --root of the snapshotter; "" means soci below Dir
	Debug      string    // host:port where the snapshotter serves its profiles; "" means nowhere
	Echo       io.Writer // gets each command line of Soci and Ctr as typed; nil means nobody
}

// Node is a running node.
type Node struct {
	Dir        string
	Containerd Containerd
	Address    string         // of containerd
	Namespace  string         // of containerd; also the cgroup of the containers
	Client     *client.Client // connected to containerd, in Namespace

	bin, config string
	root, debug string
	echo        io.Writer
	containerd  *Process
	snapshotter *Process
	runs        atomic.Int64 // containers so far, for their names
}

// Start starts the snapshotter and containerd.
func Start(ctx context.Context, opts Options) (_ *Node, err error) {
	if len(opts.Dir) > 60 {
		return nil, fmt.Errorf("start node: the name %s is too long for unix sockets below it", opts.Dir)
	}
	n := &Node{
		Dir:        opts.Dir,
		Containerd: opts.Containerd,
		Address:    filepath.Join(opts.Dir, "c.sock"),
		Namespace:  filepath.Base(opts.Dir),
		config:     opts.Config,
		root:       opts.Root,
		debug:      opts.Debug,
		echo:       opts.Echo,
	}
	if opts.Namespace != "" {
		n.Namespace = opts.Namespace
	}
	if n.echo == nil {
		n.echo = io.Discard
	}
	if n.root == "" {
		n.root = filepath.Join(n.Dir, "soci")
	}
	if err := os.MkdirAll(filepath.Join(n.Dir, "home"), 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close(ctx))
		}
	}()
	if opts.Bin != "" {
		if n.bin, err = filepath.Abs(opts.Bin); err != nil {
			return nil, err
		}
		if err := n.StartSnapshotter(ctx); err != nil {
			return nil, err
		}
	}
	return n, n.startContainerd(ctx)
}

// Close stops everything and reports what could not be stopped in order or was left behind.
func (n *Node) Close(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	return errors.Join(n.stopContainerd(ctx), n.StopSnapshotter(unix.SIGTERM), n.unmountSnapshotter(ctx), n.unmountLeftovers())
}

// unmountSnapshotter takes away the mount that our snapshotter leaves for its next start.
func (n *Node) unmountSnapshotter(ctx context.Context) error {
	if _, err := os.Stat(n.SnapshotterRoot()); err != nil {
		return nil // it never ran
	}
	_, err := n.command(ctx, filepath.Join(n.bin, "soci-snapshotter-grpc"), []string{"--root", n.SnapshotterRoot(), "unmount"})
	return err
}

// SnapshotterRoot is the --root of the snapshotter and of soci.
func (n *Node) SnapshotterRoot() string { return n.root }

// SnapshotterLog is the file with the snapshotter's log.
func (n *Node) SnapshotterLog() string { return n.logFile("soci-snapshotter-grpc") }

// SnapshotterLogTail is the end of the snapshotter's log.
func (n *Node) SnapshotterLogTail() string { return string(tail(n.SnapshotterLog())) }

func (n *Node) snapshotterSocket() string    { return filepath.Join(n.Dir, "s.sock") }
func (n *Node) metricsSocket() string        { return filepath.Join(n.Dir, "m.sock") }
func (n *Node) logFile(daemon string) string { return filepath.Join(n.Dir, daemon+".log") }

// env is added to every process's environment: no credentials, proxies' exceptions or settings of the host's user.
func (n *Node) env() []string {
	return []string{"HOME=" + filepath.Join(n.Dir, "home"), "DOCKER_CONFIG=", "NOTIFY_SOCKET="}
}

// StartSnapshotter starts our snapshotter, at first or again after StopSnapshotter.
func (n *Node) StartSnapshotter(ctx context.Context) error {
	file := filepath.Join(n.Dir, "config.toml")
	config := fmt.Sprintf("metrics_network = \"unix\"\nmetrics_address = %q\ndebug_address = %q\n[pull_modes.soci_v1]\n  enable = true\n%s", n.metricsSocket(), n.debug, n.config)
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return err
	}
	var err error
	n.snapshotter, err = startProcess(n.SnapshotterLog(), n.env(), filepath.Join(n.bin, "soci-snapshotter-grpc"),
		"--address", n.snapshotterSocket(), "--root", n.SnapshotterRoot(), "--config", file, "--log-level", "debug")
	if err != nil {
		return err
	}
	return n.snapshotter.ready(ctx, listens(n.snapshotterSocket()))
}

// StopSnapshotter stops our snapshotter; it is no error if it does not run.
func (n *Node) StopSnapshotter(sig unix.Signal) error {
	p := n.snapshotter
	n.snapshotter = nil
	return p.Stop(sig)
}

// Soci runs soci as a user would and returns what it printed.
func (n *Node) Soci(ctx context.Context, args ...string) (string, error) {
	fmt.Fprintf(n.echo, "# soci %s\n", quote(args))
	args = append([]string{"--address", n.Address, "--namespace", n.Namespace, "--root", n.SnapshotterRoot()}, args...)
	return n.command(ctx, filepath.Join(n.bin, "soci"), args)
}

// Ctr runs ctr as a user would and returns what it printed.
func (n *Node) Ctr(ctx context.Context, args ...string) (string, error) {
	fmt.Fprintf(n.echo, "# ctr %s\n", quote(args))
	return n.command(ctx, n.Containerd.ctr, append([]string{"--address", n.Address, "--namespace", n.Namespace}, args...))
}

// command runs a program to its end; its error carries what it said on standard error.
func (n *Node) command(ctx context.Context, program string, args []string) (string, error) {
	c := exec.CommandContext(ctx, program, args...)
	c.Cancel = func() error { return c.Process.Signal(unix.SIGTERM) }
	c.WaitDelay = stopTimeout
	c.Env = append(os.Environ(), n.env()...)
	var out, errOut bytes.Buffer
	c.Stdout, c.Stderr = &out, &errOut
	if err := c.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(program), quote(args), err, bytes.TrimSpace(errOut.Bytes()))
	}
	return out.String(), nil
}

// quote is args as one would type them in a shell.
func quote(args []string) string {
	typed := make([]string, len(args))
	for i, a := range args {
		if typed[i] = a; a == "" || strings.ContainsAny(a, " \t\n'\"$&;|<>()*?#`\\") {
			typed[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(typed, " ")
}

// Mounts lists what is mounted below dir, deepest last.
func Mounts(dir string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var below []string
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		// The kernel writes blanks in names as \040 and the like.
		path, err := strconv.Unquote(`"` + fields[1] + `"`)
		if err != nil {
			return nil, fmt.Errorf("mount table: %q: %w", fields[1], err)
		}
		if strings.HasPrefix(path, dir+"/") {
			below = append(below, path)
		}
	}
	return below, nil
}

// unmountLeftovers detaches what should not be there any more, and says so.
func (n *Node) unmountLeftovers() error {
	left, err := Mounts(n.Dir)
	if err != nil {
		return err
	}
	var errs []error
	for i := len(left) - 1; i >= 0; i-- {
		errs = append(errs, fmt.Errorf("%s was left mounted", left[i]), unix.Unmount(left[i], unix.MNT_DETACH))
	}
	return errors.Join(errs...)
}

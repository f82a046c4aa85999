// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"
)

// Containerd is one set of containerd's binaries.
type Containerd struct {
	Version string // such as "1.6.20~ds1" or "v2.4.2"
	daemon  string // absolute paths
	ctr     string
	path    string // PATH of the daemon, where its shim and runc are found
}

// FindContainerd returns the containerd in dir, or the one on PATH if dir is "".
func FindContainerd(dir string) (Containerd, error) {
	var c Containerd
	for name, path := range map[string]*string{"containerd": &c.daemon, "ctr": &c.ctr, "containerd-shim-runc-v2": new(string), "runc": new(string)} {
		file := name
		if dir != "" && name != "runc" {
			file = filepath.Join(dir, name)
		}
		found, err := exec.LookPath(file)
		if err != nil {
			return Containerd{}, fmt.Errorf("%s is needed: %w (make deps installs or builds it)", name, err)
		}
		if *path, err = filepath.Abs(found); err != nil {
			return Containerd{}, err
		}
	}
	c.path = filepath.Dir(c.daemon) + ":" + os.Getenv("PATH")
	out, err := exec.Command(c.daemon, "--version").Output()
	if err != nil {
		return Containerd{}, fmt.Errorf("ask %s for its version: %w", c.daemon, err)
	}
	// containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3
	fields := strings.Fields(string(out))
	if len(fields) < 3 {
		return Containerd{}, fmt.Errorf("ask %s for its version: it says %q", c.daemon, out)
	}
	c.Version = fields[2]
	return c, nil
}

// Decompressor is the program that containerd unpacks gzip with, the first of these that is on PATH, or "" for its own code.
func Decompressor() string {
	for _, name := range []string{"igzip", "unpigz"} {
		if _, err := exec.LookPath(name); err == nil {
			return name
		}
	}
	return ""
}

// Transfer reports whether this containerd has the transfer service (2.0 and later), through which its ctr pulls lazily.
func (c Containerd) Transfer() bool {
	return !strings.HasPrefix(strings.TrimPrefix(c.Version, "v"), "1.")
}

// config is the daemon's configuration: everything below dir, nothing that a node of ours does not need.
func (c Containerd) config(n *Node) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if c.Transfer() {
		line("version = 3")
		line("disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.nri.v1.nri', 'io.containerd.internal.v1.tracing', 'io.containerd.tracing.processor.v1.otlp']")
	} else {
		line("version = 2")
		line("disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.snapshotter.v1.aufs', 'io.containerd.snapshotter.v1.btrfs', 'io.containerd.snapshotter.v1.zfs', 'io.containerd.snapshotter.v1.devmapper']")
	}
	line("root = %q", filepath.Join(n.Dir, "containerd"))
	line("state = %q", filepath.Join(n.Dir, "run"))
	line("[grpc]\n  address = %q", n.Address)
	line("[plugins.'io.containerd.internal.v1.opt']\n  path = %q", filepath.Join(n.Dir, "opt"))
	line("[proxy_plugins.%s]\n  type = 'snapshot'\n  address = %q", Soci, n.snapshotterSocket())
	line("  [proxy_plugins.%s.exports]\n    root = %q\n    enable_remote_snapshot_annotations = 'true'", Soci, n.SnapshotterRoot())
	if c.Transfer() {
		for _, s := range []string{Soci, Overlayfs} {
			line("[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\n  platform = 'linux'\n  snapshotter = '%s'", s)
		}
	}
	return b.String()
}

// startContainerd starts the daemon and connects to it.
func (n *Node) startContainerd(ctx context.Context) error {
	file := filepath.Join(n.Dir, "containerd.toml")
	if err := os.WriteFile(file, []byte(n.Containerd.config(n)), 0o644); err != nil {
		return err
	}
	var err error
	n.containerd, err = startProcess(n.logFile("containerd"), append(n.env(), "PATH="+n.Containerd.path), n.Containerd.daemon, "--config", file)
	if err != nil {
		return err
	}
	if err := n.containerd.ready(ctx, listens(n.Address)); err != nil {
		return err
	}
	n.Client, err = client.New(n.Address, client.WithDefaultNamespace(n.Namespace))
	if err != nil {
		return fmt.Errorf("connect to containerd: %w", err)
	}
	return nil
}

// stopContainerd ends containers, shims and the daemon, in that order.
func (n *Node) stopContainerd(ctx context.Context) error {
	if n.containerd == nil {
		return nil
	}
	var errs []error
	if n.Client != nil {
		errs = append(errs, n.removeContainers(ctx), n.Client.Close())
	}
	errs = append(errs, n.containerd.Stop(unix.SIGTERM), n.killShims())
	n.containerd, n.Client = nil, nil
	return errors.Join(errs...)
}

func (n *Node) removeContainers(ctx context.Context) error {
	ctx = namespaces.WithNamespace(ctx, n.Namespace)
	containers, err := n.Client.Containers(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	var errs []error
	for _, c := range containers {
		if task, err := c.Task(ctx, nil); err == nil {
			if _, err := task.Delete(ctx, client.WithProcessKill); err != nil {
				errs = append(errs, fmt.Errorf("kill container %s: %w", c.ID(), err))
			}
		}
		if err := c.Delete(ctx, client.WithSnapshotCleanup); err != nil {
			errs = append(errs, fmt.Errorf("remove container %s: %w", c.ID(), err))
		}
	}
	return errors.Join(errs...)
}

// killShims kills the shims of our containerd that outlived it: known by the -address they were started with.
func (n *Node) killShims() error {
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, file := range procs {
		cmdline, err := os.ReadFile(file)
		if err != nil {
			continue // ended meanwhile
		}
		argv := strings.Split(string(cmdline), "\x00")
		if strings.HasPrefix(filepath.Base(argv[0]), "containerd-shim") && strings.Contains(string(cmdline), "\x00"+n.Address+"\x00") {
			var pid int
			if _, err := fmt.Sscanf(file, "/proc/%d/", &pid); err != nil {
				return err
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill shim %d: %w", pid, err)
			}
		}
	}
	return nil
}

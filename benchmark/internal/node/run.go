// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Container says what Run runs.
type Container struct {
	Image       string // reference of an image that was pulled with Snapshotter
	Snapshotter string // Soci or Overlayfs
	Args        []string
	Dir         string // working directory; "" means the image's
}

// Result is what a container printed and how long it took, from the ctr command on.
type Result struct {
	Stdout string
	First  time.Duration // to the first byte of Stdout; 0 if there was none
	Total  time.Duration // to the end of ctr, the container removed
}

// Run runs a container to its end and removes it. An exit code other than 0 is an error with the container's standard error.
func (n *Node) Run(ctx context.Context, c Container) (Result, error) {
	fifos := filepath.Join(n.Dir, "fifo")
	if err := os.MkdirAll(fifos, 0o700); err != nil {
		return Result{}, err
	}
	args := []string{"run", "--rm", "--snapshotter", c.Snapshotter}
	if c.Dir != "" {
		args = append(args, "--cwd", c.Dir)
	}
	args = append(append(args, c.Image, fmt.Sprintf("run%d", n.runs.Add(1))), c.Args...)
	fmt.Fprintf(n.echo, "# ctr %s\n", quote(args))
	args = append([]string{"--address", n.Address, "--namespace", n.Namespace, "run", "--fifo-dir", fifos}, args[1:]...)

	cmd := exec.CommandContext(ctx, n.Containerd.ctr, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	cmd.Env = append(os.Environ(), n.env()...)
	var errOut bytes.Buffer
	out := timed{start: time.Now()}
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	r := Result{Stdout: out.buf.String(), First: out.first, Total: time.Since(out.start)}
	if err != nil {
		return r, fmt.Errorf("run %s in %s: %w: %s", quote(c.Args), c.Image, err, bytes.TrimSpace(errOut.Bytes()))
	}
	return r, nil
}

// timed is a buffer that knows when its first byte came. It must not have a ReadFrom, which would hide that.
type timed struct {
	buf   bytes.Buffer
	start time.Time
	first time.Duration
}

func (t *timed) Write(p []byte) (int, error) {
	if t.first == 0 && len(p) > 0 {
		t.first = time.Since(t.start)
	}
	return t.buf.Write(p)
}

// DropCaches empties the page cache, the dentry cache and the inode cache of the whole machine.
func DropCaches() error {
	unix.Sync()
	f, err := os.OpenFile("/proc/sys/vm/drop_caches", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("drop caches: %w", err)
	}
	_, err = f.WriteString("3")
	return errors.Join(err, f.Close())
}

// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Pull pulls an image from a registry that speaks plain http, as a user would: in
// full for Overlayfs, lazily for Soci.
func (n *Node) Pull(ctx context.Context, ref, snapshotter string) (err error) {
	if snapshotter == Soci {
		_, err = n.Soci(ctx, "image", "rpull", "--plain-http", ref)
	} else {
		_, err = n.Ctr(ctx, "image", "pull", "--plain-http", ref)
	}
	return err
}

// Container says what Run runs.
type Container struct {
	Image       string // reference of an image that was pulled with Snapshotter
	Snapshotter string // Soci or Overlayfs
	Args        []string
	Dir         string // working directory; "" means the image's
}

// Result is what a container printed and how long it took, from the ctr command on.
type Result struct {
	Output string        // standard output and error
	First  time.Duration // to the first byte of Output, to within pollEvery; 0 if there was none
	Total  time.Duration // to the end of ctr, the container removed
}

// Run runs a container to its end and removes it. An exit code other than 0 is an error that says what the container printed.
//
// The output goes through a file of the shim's, not through ctr: ctr opens its pipes in the background, and
// on a busy machine the container may have ended before they are open, and its output is lost.
func (n *Node) Run(ctx context.Context, c Container) (Result, error) {
	id := fmt.Sprintf("run%d", n.runs.Add(1))
	file := filepath.Join(n.Dir, id+".out")
	args := []string{"--rm", "--snapshotter", c.Snapshotter}
	if c.Dir != "" {
		args = append(args, "--cwd", c.Dir)
	}
	args = append(append(args, c.Image, id), c.Args...)
	fmt.Fprintf(n.echo, "# ctr run %s\n", quote(args))
	args = append([]string{"--address", n.Address, "--namespace", n.Namespace, "run", "--log-uri", "file://" + file}, args...)

	start := time.Now()
	stop, first := make(chan struct{}), make(chan time.Duration, 1)
	go func() { first <- firstByte(file, start, stop) }()
	_, err := n.command(ctx, n.Containerd.ctr, args)
	r := Result{Total: time.Since(start)}
	if err != nil {
		// The shim waits for what a failed container said, but not for ever; and why it failed is worth waiting for.
		late := make(chan struct{})
		timer := time.AfterFunc(lateOutput, func() { close(late) })
		firstByte(file, start, late)
		timer.Stop()
	}
	close(stop)
	r.First = <-first
	out, readErr := os.ReadFile(file)
	r.Output = string(out)
	if err != nil {
		return r, fmt.Errorf("%w\n%s", err, r.Output)
	}
	return r, errors.Join(readErr, os.Remove(file))
}

// lateOutput bounds the wait for the output of a container that has failed.
const lateOutput = 5 * time.Second

// firstByte waits until the file has content or stop is closed, and returns how long after start that was; 0 if it has none.
func firstByte(file string, start time.Time, stop <-chan struct{}) time.Duration {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for stopped := false; ; {
		if info, err := os.Stat(file); err == nil && info.Size() > 0 {
			return time.Since(start)
		}
		if stopped {
			return 0
		}
		select {
		case <-tick.C:
		case <-stop:
			stopped = true
		}
	}
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

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/benchmark/internal/image"
	"github.com/seekoci/seekoci/benchmark/internal/node"
	"github.com/seekoci/seekoci/benchmark/internal/sandbox"
)

// mountVolume gives the daemon a disk of its own, that can be filled.
func (r *run) mountVolume(ctx context.Context) error {
	r.volume = filepath.Join(r.dir, "disk")
	r.disk.root = filepath.Join(r.volume, "soci")
	if err := os.Mkdir(r.volume, 0o755); err != nil {
		return err
	}
	file := filepath.Join(r.dir, "disk.img")
	f, err := os.Create(file)
	if err == nil {
		err = errors.Join(f.Truncate(diskSize), f.Close())
	}
	if err == nil {
		var out []byte
		if out, err = exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", file).CombinedOutput(); err == nil {
			out, err = exec.CommandContext(ctx, "mount", "-o", "loop", file, r.volume).CombinedOutput()
		}
		r.report.note("disk", "ext4")
		if err == nil {
			return nil
		}
		err = fmt.Errorf("%w: %s", err, out)
	}
	r.report.note("disk", fmt.Sprintf("tmpfs, as there can be no ext4 (%v)", err))
	return unix.Mount("tmpfs", r.volume, "tmpfs", 0, fmt.Sprintf("size=%d,mode=755", diskSize))
}

// makeImages makes the images, indexes them and puts them into the registry.
func (r *run) makeImages(ctx context.Context) error {
	tool, err := os.ReadFile(filepath.Join(r.opts.bin, "probe"))
	if err != nil {
		return err
	}
	for _, p := range plans() {
		c, err := makeContent(ctx, r.dir, r.opts.seed, p, tool)
		if err != nil {
			return err
		}
		indexed := c.layout + "-indexed"
		args := []string{"convert", "--standalone", "--format", "oci-dir", "--span-size", "262144", "--min-layer-size", fmt.Sprint(minLayerSize)}
		if c.compact {
			args = append(args, "--compact", "--compact-span-size", "65536")
		}
		if out, err := exec.CommandContext(ctx, filepath.Join(r.opts.bin, "soci"), append(args, c.layout, indexed)...).CombinedOutput(); err != nil {
			return fmt.Errorf("index image %s: %w: %s", c.name, err, out)
		}
		if err := image.PushRoot(ctx, indexed, r.registry.Host()+"/"+r.name(c)); err != nil {
			return err
		}
		r.images = append(r.images, c)
	}
	return nil
}

func (r *run) name(c *content) string { return "chaos/" + c.name + ":1" }

// ref is what an image is pulled as.
func (r *run) ref(c *content) string { return r.proxy.host() + "/" + r.name(c) }

func (r *run) startNode(ctx context.Context) error {
	containerd, err := node.FindContainerd(r.opts.containerd)
	if err != nil {
		return err
	}
	r.report.note("containerd", containerd.Version)
	if r.debug, err = freeAddress(); err != nil {
		return err
	}
	dir := filepath.Join(r.dir, "n")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	r.node, err = node.Start(ctx, node.Options{
		Dir: dir, Containerd: containerd, Namespace: sandbox.CgroupParent(r.dir), Bin: r.opts.bin,
		Config: r.daemonConfig(r.opts.seed), Root: r.disk.root, Debug: r.debug,
	})
	if err != nil {
		return err
	}
	r.pid.Store(int64(r.node.SnapshotterPid()))
	if _, err := r.holder(ctx, 0); err != nil {
		return err
	}
	r.base, err = r.resources(ctx)
	return err
}

// prepare pulls the images and has a container of each run, before anything goes wrong.
func (r *run) prepare(ctx context.Context) error {
	for _, c := range r.images {
		if err := r.node.Pull(ctx, r.ref(c), node.Soci); err != nil {
			return err
		}
	}
	had, err := r.disk.look()
	if err != nil {
		return err
	}
	if len(had.layers) == 0 {
		return errors.New("pull images: none of their layers is lazy")
	}
	r.report.add("lazy layers at first", int64(len(had.layers)))
	a, b, c := r.images[0], r.images[1], r.images[2]
	r.fleet = newFleet(r, []*content{a, b, c, a, b})
	for slot := range r.fleet.slots {
		r.fleet.fill(ctx, slot)
	}
	if r.fleet.count() != len(r.fleet.slots) {
		return fmt.Errorf("start containers: %d of %d run", r.fleet.count(), len(r.fleet.slots))
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/seekoci/seekoci/benchmark/internal/node"

	"github.com/seekoci/seekoci/benchmark/chaos/internal/check"
)

// doRegistry does a step of the registry's lane.
func (r *run) doRegistry(ctx context.Context, s step) error {
	if s.kind == expire { // which nobody is to notice
		r.registry.ExpireTokens()
		r.registry.ExpireRedirects()
		return nil
	}
	// What the mirror alone does wrong is nobody's excuse.
	if s.seed%4 == 0 {
		return r.weather(ctx, s, r.mirror)
	}
	end, err := r.badRegistry()
	if err != nil {
		return err
	}
	defer end()
	if s.seed%4 == 1 {
		return r.weather(ctx, s, r.proxy, r.mirror)
	}
	return r.weather(ctx, s, r.proxy)
}

// weather has the proxies do what the step says, for as long as it says.
func (r *run) weather(ctx context.Context, s step, proxies ...*proxy) (err error) {
	for _, p := range proxies {
		if s.kind == registryDown {
			err = errors.Join(err, p.stop())
		} else {
			p.set(weather{s.kind, s.odds})
		}
	}
	wait(ctx, s.hold)
	for _, p := range proxies {
		if s.kind == registryDown {
			err = errors.Join(err, p.start())
		} else {
			p.set(weather{})
		}
	}
	return err
}

// badRegistry begins a window in which answers are spoilt.
func (r *run) badRegistry() (end func(), err error) {
	now := check.Now()
	if r.evicts.Load() || r.line.during(now, now, noSpace) { // nobody knows what will be on disk in a moment
		return r.line.begin(badRegistry, nil), nil
	}
	had, err := r.disk.look()
	if err != nil {
		return nil, err
	}
	return r.line.begin(badRegistry, had), nil
}

// doUser does a step of the users' lane.
func (r *run) doUser(ctx context.Context, s step) error {
	rnd := rand.New(rand.NewPCG(s.seed, 5))
	image := r.images[rnd.IntN(len(r.images))]
	switch s.kind {
	case dropCaches:
		return dropAll()
	case runTool:
		r.runTool(ctx, rnd, image)
	case replaceBox:
		slot := rnd.IntN(len(r.fleet.slots))
		r.fleet.mu.Lock()
		if b := r.fleet.boxes[slot]; b != nil {
			b.replace = true
		}
		r.fleet.mu.Unlock()
	case pullAgain:
		return r.renew(ctx, image, 1, false)
	case pullTwice:
		return r.renew(ctx, image, 2, false)
	case purgeImage:
		return r.renew(ctx, image, 1, true)
	}
	return nil
}

// renew removes an image and pulls it, with so many pulls at once; with purge when all its
// containers are gone.
func (r *run) renew(ctx context.Context, image *content, pulls int, purge bool) error {
	lock := r.fleet.pulling[image]
	lock.Lock()
	defer lock.Unlock()
	if purge {
		r.fleet.empty(ctx, image)
	}
	r.line.forget()
	err := r.insist(ctx, dropImage, func(ctx context.Context) error {
		_, err := r.node.Ctr(ctx, "image", "rm", "--sync", r.ref(image))
		return err
	})
	r.line.forget()
	var g errgroup.Group
	for range pulls {
		g.Go(func() error { return r.pull(ctx, image) })
	}
	return errors.Join(err, g.Wait())
}

// pull pulls an image, as often as it takes.
func (r *run) pull(ctx context.Context, image *content) error {
	err := r.insist(ctx, pullImage, func(ctx context.Context) error {
		return r.node.Pull(ctx, r.ref(image), node.Soci)
	})
	if err == nil {
		r.report.add("pulls", 1)
	}
	return err
}

// empty has the containers of an image go, and waits for that, as far as they go. The caller
// holds the image's lock, so that none is started.
func (f *fleet) empty(ctx context.Context, image *content) {
	for ctx.Err() == nil {
		left := 0
		f.each(func(b *box) {
			if b.image == image {
				b.replace = true
				left++
			}
		})
		if left == 0 {
			return
		}
		wait(ctx, 20*time.Millisecond)
	}
}

// runTool runs a container with the program of the image to its end, and compares what it read.
func (r *run) runTool(ctx context.Context, rnd *rand.Rand, image *content) {
	lock := r.fleet.pulling[image]
	lock.RLock()
	defer lock.RUnlock()
	path := image.paths[rnd.IntN(len(image.paths))]
	truth, err := os.ReadFile(filepath.Join(image.truth, path))
	if errors.Is(err, os.ErrNotExist) {
		return // taken away by a layer above
	}
	if err != nil {
		r.report.fault("read the truth: %v", err)
		return
	}
	want := fmt.Sprintf("%x /%s", sha256.Sum256(truth), path)
	err = r.command(ctx, runBox, func(ctx context.Context) error {
		res, err := r.node.Run(ctx, node.Container{Image: r.ref(image), Snapshotter: node.Soci, Args: []string{image.tool, "read", "1", "/" + path}})
		if got := strings.TrimSpace(res.Output); err == nil && got != want {
			r.report.wrong("a container of image %s reads %q, want %q", image.name, got, want)
		}
		return err
	})
	if err == nil {
		r.report.add("containers run to their end", 1)
	}
}

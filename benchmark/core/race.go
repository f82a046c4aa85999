// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os/exec"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/benchmark/internal/stat"
)

// contender is one way to do what is measured, and what its runs took.
type contender struct {
	name string
	once func(context.Context) (usage, error)

	wall, cpu stat.Series // seconds
	peak      stat.Series // bytes
}

// race runs the contenders in turn, all of them in each round, so that they meet the
// same moods of the machine. Each round begins with another one. A round that is
// not counted comes first.
func race(ctx context.Context, rounds int, contenders []*contender) error {
	for round := range rounds + 1 {
		for i := range contenders {
			c := contenders[(i+round)%len(contenders)]
			u, err := c.once(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if round > 0 {
				c.wall = append(c.wall, u.Wall)
				c.cpu = append(c.cpu, u.CPU)
				c.peak = append(c.peak, float64(u.Peak))
			}
		}
	}
	return nil
}

// program is a contender that runs a program on cpus processors (0: on all) with its output thrown away.
func program(name string, cpus int, args ...string) *contender {
	return &contender{name: name, once: func(ctx context.Context) (usage, error) {
		return (&command{args: args, cpus: cpus}).run(ctx)
	}}
}

// inProcess is a contender that is a function of this program.
func inProcess(name string, do func() error) *contender {
	return &contender{name: name, once: func(context.Context) (usage, error) {
		start, before := time.Now(), ownCPU()
		err := do()
		return usage{Wall: time.Since(start).Seconds(), CPU: ownCPU() - before}, err
	}}
}

// ownCPU is the processor time that this program has taken, in seconds.
func ownCPU() float64 {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()).Seconds()
}

// atOnce is a contender that starts others together and waits for all.
func atOnce(name string, all ...*contender) *contender {
	return &contender{name: name, once: func(ctx context.Context) (usage, error) {
		start := time.Now()
		us, errs := make([]usage, len(all)), make([]error, len(all))
		var wg sync.WaitGroup
		for i, c := range all {
			wg.Go(func() { us[i], errs[i] = c.once(ctx) })
		}
		wg.Wait()
		return sum(time.Since(start), us, errs)
	}}
}

// inTurn is a contender that runs others one after another.
func inTurn(name string, all ...*contender) *contender {
	return &contender{name: name, once: func(ctx context.Context) (usage, error) {
		start := time.Now()
		us, errs := make([]usage, len(all)), make([]error, len(all))
		for i, c := range all {
			us[i], errs[i] = c.once(ctx)
		}
		return sum(time.Since(start), us, errs)
	}}
}

// sum is what runs took together. Their peaks are added, as if all were there at once.
func sum(wall time.Duration, us []usage, errs []error) (usage, error) {
	total := usage{Wall: wall.Seconds()}
	for i, u := range us {
		if errs[i] != nil {
			return usage{}, errs[i]
		}
		total.CPU += u.CPU
		total.Peak += u.Peak
	}
	return total, nil
}

// checkOutput runs the program once and compares the digest of what it writes.
func checkOutput(ctx context.Context, want digest.Digest, args ...string) error {
	sum := sha256.New()
	if _, err := (&command{args: args, out: sum}).run(ctx); err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, sum); got != want {
		return fmt.Errorf("run %v: the output is %s, not %s", args, got, want)
	}
	return nil
}

// have reports whether a program is installed.
func have(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

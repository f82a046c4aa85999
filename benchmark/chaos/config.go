// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"
)

// phaseSteps is how many steps of the node's lane daemons have the same cache and mirror for.
const phaseSteps = 12

// smallCache is less than half of what the images hold.
const smallCache = 24 << 20

// phaseOf decides what daemons have that start from now on.
func (r *run) phaseOf(s step) {
	rnd := rand.New(rand.NewPCG(r.opts.seed, uint64(s.n/phaseSteps)))
	r.small.Store(rnd.IntN(3) == 0)
	r.mirrored = rnd.IntN(2) == 0
}

// daemonConfig is the end of the daemon's configuration: few retries, so that a registry that fails
// is an error soon, sometimes no background fetch, and what the phase is about.
func (r *run) daemonConfig(seed uint64) string {
	config := fmt.Sprintf(`[http]
  DialTimeoutMsec = 500
  ResponseHeaderTimeoutMsec = 1000
  RequestTimeoutMsec = 5000
  MaxRetries = 3
  MinWaitMsec = 20
  MaxWaitMsec = 400
[background_fetch]
  disable = %v
[holder]
  eio_after_sec = %d
`, seed%3 == 0, int(eioAfter/time.Second))
	if r.small.Load() {
		config += fmt.Sprintf("[cache]\n  max_bytes = %d\n", smallCache)
	}
	if r.mirrored {
		config += fmt.Sprintf("[resolver.host.%q]\n  mirrors = [{host = %q, insecure = true}]\n", r.proxy.host(), r.mirror.host())
	}
	return config
}

// lastStart has the last pass read through a daemon that keeps what is read.
func (r *run) lastStart(ctx context.Context) error {
	r.small.Store(false)
	r.mirrored = false
	if err := r.restart(ctx, step{seed: 1}, unix.SIGTERM, nil); err != nil {
		return err
	}
	return dropAll()
}

// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"net/http"
	"sync"
	"time"
)

const (
	missFor      = 30 * time.Second // a mirror without a blob is not asked for it
	ailMin       = time.Second      // a mirror that fails is left alone, doubling
	ailMax       = time.Minute
	maxUnhealthy = 1024 // hosts remembered
)

// mirrorHealth remembers which mirrors fail. The zero value is ready.
type mirrorHealth struct {
	mu   sync.Mutex // guards ails
	ails map[string]ailment
}

type ailment struct {
	wait  time.Duration
	until time.Time
}

// well reports whether host is worth asking.
func (h *mirrorHealth) well(host string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !time.Now().Before(h.ails[host].until)
}

// failed leaves host alone for a while, longer each time.
func (h *mirrorHealth) failed(host string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ails == nil || len(h.ails) >= maxUnhealthy {
		h.ails = make(map[string]ailment)
	}
	now, a := time.Now(), h.ails[host]
	if now.Before(a.until) {
		return // one failure of many requests at once
	}
	a.wait = min(max(2*a.wait, ailMin), ailMax)
	a.until = now.Add(a.wait)
	h.ails[host] = a
}

// recovered forgets the failures of host.
func (h *mirrorHealth) recovered(host string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.ails, host)
}

// turnFrom remembers that a mirror failed: for this blob if it answered so, for all if it did not.
func (b *Blob) turnFrom(host string, err error) {
	var e *Error
	if !errors.As(err, &e) || e.Temporary() || e.Status == 0 || e.Status == http.StatusUnauthorized {
		b.repo.client.health.failed(host)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.miss[host] = time.Now().Add(missFor)
}

func (b *Blob) misses(host string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Now().Before(b.miss[host])
}

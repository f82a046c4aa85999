// SPDX-License-Identifier: Apache-2.0

package link

import (
	"sync"
	"time"
)

// burst is how much a wire may catch up on, as the time that it was idle for.
const burst = 2 * time.Millisecond

// Wire is one direction of a line: it says when bytes have left, and never waits itself.
// It is safe for concurrent use.
type Wire struct {
	bandwidth int64 // bytes per second; 0: no limit

	mu   sync.Mutex
	free time.Time // when all that was sent has left
}

// NewWire makes a wire of so many bytes per second; 0 means no limit.
func NewWire(bandwidth int64) *Wire { return &Wire{bandwidth: bandwidth} }

// Send puts n bytes on the wire, behind all that were sent before, and returns when the
// last of them has left. now is the time of the call.
func (w *Wire) Send(now time.Time, n int) time.Time {
	if w.bandwidth <= 0 {
		return now
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if idle := now.Add(-burst); w.free.Before(idle) {
		w.free = idle
	}
	w.free = w.free.Add(time.Duration(float64(n) / float64(w.bandwidth) * float64(time.Second)))
	if w.free.Before(now) {
		return now
	}
	return w.free
}

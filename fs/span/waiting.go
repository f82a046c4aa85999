// SPDX-License-Identifier: Apache-2.0

package span

import (
	"sync"
	"time"
)

// patience is for how long the background makes way for a reader while nothing comes in of
// its layer: a registry that does not answer is not to hold up what comes from others.
const patience = 5 * time.Second

// waiting is a reader that waits, for which the background makes way.
type waiting struct {
	l     *Layer
	timer *time.Timer // calls look

	mu   sync.Mutex // guards what follows
	seen int64      // bytes fetched of the layer
	over bool
}

// wait tells that a reader waits, until end.
func (l *Layer) wait() *waiting {
	l.store.calm.enter()
	w := &waiting{l: l, seen: l.stats.bytesFetched.Load()}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(patience, w.look)
	return w
}

// look ends the making way if nothing has come in.
func (w *waiting) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.l.stats.bytesFetched.Load(); n != w.seen && !w.over {
		w.seen = n
		w.timer.Reset(patience)
		return
	}
	w.leave()
}

func (w *waiting) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
	w.leave()
}

// leave is the end, once. The caller holds w.mu.
func (w *waiting) leave() {
	if !w.over {
		w.over = true
		w.l.store.calm.leave()
	}
}

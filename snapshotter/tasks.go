// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"sync"
)

// tasks are the goroutines that outlive the call that began them. They belong to
// the Snapshotter, whose Close ends them and waits.
type tasks struct {
	ctx    context.Context //nolint:containedctx // of all tasks, not of a call
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool // guarded by mu
}

// newTasks returns tasks with the values of ctx, which may end before they do.
func newTasks(ctx context.Context) *tasks {
	t := &tasks{}
	t.ctx, t.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return t
}

// run runs f on a goroutine of its own, with a context that ends with close. After
// close it is run at once, with a context that is over.
func (t *tasks) run(f func(ctx context.Context)) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		f(t.ctx)
		return
	}
	t.wg.Add(1)
	t.mu.Unlock()
	go func() {
		defer t.wg.Done()
		f(t.ctx)
	}()
}

// close ends the tasks and waits for them.
func (t *tasks) close() {
	t.mu.Lock()
	t.closed = true
	t.cancel() // before anybody does a task himself
	t.mu.Unlock()
	t.wg.Wait()
}

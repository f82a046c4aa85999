// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/seekoci/seekoci/benchmark/chaos/internal/check"
	"github.com/seekoci/seekoci/benchmark/internal/node"
)

// box is one container with a checker in it.
type box struct {
	id    string
	image *content
	out   string // directory that it shares with its checker
	began int64  // when its start began, as of check.Now

	read int64  // bytes of its log read so far
	part []byte // of a line that is not yet whole

	// Guarded by fleet.mu.
	lostAt   int64 // when its mount was lost, 0 if it was not
	replace  bool  // another one is wanted
	finished bool  // its last pass is over
	last     check.Progress
}

// fleet is the containers that are to run, and what has become of them.
type fleet struct {
	r   *run
	ids int

	mu    sync.Mutex
	boxes []*box // one for each slot, nil where none runs
	lost  int64  // when mounts were last lost
	slots []*content
	// pulling is held by who removes or pulls an image, and shared by who starts a container of it.
	pulling map[*content]*sync.RWMutex
}

func newFleet(r *run, slots []*content) *fleet {
	f := &fleet{r: r, boxes: make([]*box, len(slots)), slots: slots, pulling: make(map[*content]*sync.RWMutex)}
	for _, c := range r.images {
		f.pulling[c] = new(sync.RWMutex)
	}
	return f
}

// keep keeps all slots filled until ctx is over.
func (f *fleet) keep(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		for slot := range f.slots {
			if ctx.Err() == nil {
				f.fill(ctx, slot)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// fill gives a slot a container that is fit, if it has none.
func (f *fleet) fill(ctx context.Context, slot int) {
	f.mu.Lock()
	b := f.boxes[slot]
	unfit := b != nil && (b.lostAt != 0 || b.replace)
	f.mu.Unlock()
	if b != nil && !unfit {
		return
	}
	if b != nil {
		f.discard(ctx, slot)
	}
	image := f.slots[slot]
	lock := f.pulling[image]
	if !lock.TryRLock() {
		return // later: nobody waits for another one's pull
	}
	defer lock.RUnlock()
	b, err := f.start(ctx, image)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.boxes[slot] = b
	if f.lost >= b.began {
		b.lostAt = f.lost // it may have had its mount by then
	}
}

// start starts a container.
func (f *fleet) start(ctx context.Context, image *content) (*box, error) {
	f.ids++
	b := &box{id: fmt.Sprintf("box%d", f.ids), image: image, began: check.Now()}
	b.out = filepath.Join(f.r.dir, b.id)
	if err := os.Mkdir(b.out, 0o755); err != nil {
		return nil, err
	}
	mount := func(from, to, options string) string {
		return "type=bind,src=" + from + ",dst=/.chaos/" + to + ",options=rbind:" + options
	}
	err := f.r.command(ctx, startBox, func(ctx context.Context) error {
		_, err := f.r.node.Ctr(ctx, "run", "--detach", "--null-io", "--snapshotter", node.Soci,
			"--mount", mount(f.r.checker, "checker", "ro"), "--mount", mount(image.truth, "truth", "ro"), "--mount", mount(b.out, "out", "rw"),
			f.r.ref(image), b.id, "/.chaos/checker", "/", "/.chaos/truth", "/.chaos/out", strconv.Itoa(f.ids))
		return err
	})
	if err != nil {
		return nil, errors.Join(err, f.remove(ctx, b.id), os.RemoveAll(b.out))
	}
	f.r.report.add("containers started", 1)
	return b, nil
}

// discard removes the container of a slot, whatever state it is in.
func (f *fleet) discard(ctx context.Context, slot int) {
	f.mu.Lock()
	b := f.boxes[slot]
	f.mu.Unlock()
	if b == nil || f.remove(ctx, b.id) != nil {
		return
	}
	f.drain(b)
	f.mu.Lock()
	f.boxes[slot] = nil
	f.r.report.done(b.last)
	f.mu.Unlock()
	if err := os.RemoveAll(b.out); err != nil {
		f.r.report.fault("remove %s: %v", b.out, err)
	}
}

// remove kills and removes a container, and goes on until it is gone.
func (f *fleet) remove(ctx context.Context, id string) error {
	return f.r.insist(ctx, removeBox, func(ctx context.Context) error {
		_, killed := f.r.node.Ctr(ctx, "task", "delete", "--force", id)
		_, removed := f.r.node.Ctr(ctx, "container", "delete", id)
		if removed == nil || strings.Contains(removed.Error(), "not found") {
			return nil
		}
		return errors.Join(killed, removed)
	})
}

// lose notes that all containers that run now have lost their mount.
func (f *fleet) lose(at int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost = at
	for _, b := range f.boxes {
		if b != nil && b.lostAt == 0 {
			b.lostAt = at
			f.r.report.add("containers that lost their mount", 1)
		}
	}
}

// each calls do with every container that runs.
func (f *fleet) each(do func(*box)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range f.boxes {
		if b != nil {
			do(b)
		}
	}
}

// follow reads what the checkers write until ctx is over.
func (f *fleet) follow(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var boxes []*box
		f.each(func(b *box) { boxes = append(boxes, b) })
		for _, b := range boxes {
			f.drain(b)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// drain reads what one checker has written since.
func (f *fleet) drain(b *box) {
	f.r.draining.Lock()
	defer f.r.draining.Unlock()
	file, err := os.Open(filepath.Join(b.out, check.LogFile))
	if err != nil {
		return // it has not come to that, or is gone
	}
	defer file.Close()
	p, err := io.ReadAll(io.NewSectionReader(file, b.read, 64<<20))
	if err != nil {
		f.r.report.fault("read the log of %s: %v", b.id, err)
		return
	}
	b.read += int64(len(p))
	lines := bytes.SplitAfter(append(b.part, p...), []byte("\n"))
	b.part = lines[len(lines)-1]
	for _, line := range lines[:len(lines)-1] {
		var rec check.Record
		if err := json.Unmarshal(line, &rec); err != nil {
			f.r.report.fault("log of %s: %q: %v", b.id, line, err)
			continue
		}
		if rec.Failure != nil {
			f.mu.Lock()
			lostAt := b.lostAt
			f.mu.Unlock()
			f.r.report.failure(b.image.name, *rec.Failure, f.r.line.explain(*rec.Failure, b.image.name, lostAt))
		}
		if rec.Progress != nil {
			f.mu.Lock()
			b.last, b.finished = *rec.Progress, rec.Progress.Final
			f.mu.Unlock()
		}
	}
}

// finish has every checker look at everything once more, and waits for that.
func (f *fleet) finish(ctx context.Context, limit time.Duration) error {
	var errs []error
	f.each(func(b *box) {
		errs = append(errs, os.WriteFile(filepath.Join(b.out, check.FinishFile), nil, 0o644))
	})
	if err := errors.Join(errs...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var waiting []string
		f.each(func(b *box) {
			if !b.finished {
				waiting = append(waiting, b.id+" of image "+b.image.name)
			}
		})
		if len(waiting) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("last pass over all files: not over after %v: %s", limit, strings.Join(waiting, ", "))
		case <-tick.C:
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"errors"
	"os"
	"testing"
)

// TestEvictDeadSources has more registries gone than are asked in one round: the next rounds
// come to those that answer.
func TestEvictDeadSources(t *testing.T) {
	uses := map[string]Use{"c1": InUse, "c2": InUse, "c3": InUse, "c4": InUse, "c5": InUse}
	e := newEvictable(t, Options{}, uses)
	for _, key := range []string{"c1", "c2", "c3"} {
		e.src[key].hook = func(context.Context, int, []byte, int64) error { return errors.New("gone") }
	}
	if n := e.s.MakeRoom(t.Context(), evictSpan); n != 0 {
		t.Errorf("evicted %d bytes in a round that asked nobody who answers", n)
	}
	if n := e.s.MakeRoom(t.Context(), evictSpan); n != evictSpan {
		t.Errorf("evicted %d bytes in the next round, want one span", n)
	}
	for _, key := range []string{"c1", "c2", "c3"} {
		before := e.src[key].requests()
		e.s.MakeRoom(t.Context(), evictSpan)
		if n := e.src[key].requests(); n != before {
			t.Errorf("%s was asked again at once", key)
		}
		e.src[key].hook = nil
	}
}

// TestEvictNoHole evicts from a file in which no holes can be made: nothing is given up for that.
func TestEvictNoHole(t *testing.T) {
	e := newEvictable(t, Options{}, map[string]Use{"b": InUse, "c": Unused})
	before := make(map[string]int)
	for key, l := range e.layers {
		f := l.disk.data.(*os.File)
		ro, err := os.Open(f.Name())
		must(t, err)
		must(t, f.Close())
		l.disk.data = ro
		before[key] = e.src[key].requests()
	}
	if n := e.s.MakeRoom(t.Context(), 1<<30); n != 0 {
		t.Errorf("evicted %d bytes", n)
	}
	for key, n := range map[string]int64{"b": 6, "c": 8} {
		if have := int64(e.layers[key].Stats().SpansPresent); have != n {
			t.Errorf("%s: %d spans are left, want %d", key, have, n)
		}
		mustRead(t, e.layers[key], e.data, 0, n*evictSpan)
	}
	if e.s.Stats().Bytes != 14*evictSpan {
		t.Errorf("%d bytes counted", e.s.Stats().Bytes)
	}
}

// TestCloseEndsProbe closes a layer whose source is asked whether it answers, and does not.
func TestCloseEndsProbe(t *testing.T) {
	e := newEvictable(t, Options{}, map[string]Use{"c": InUse})
	asked, ended := make(chan struct{}), make(chan error, 1)
	e.src["c"].hook = func(ctx context.Context, _ int, _ []byte, _ int64) error {
		close(asked)
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}
	done := make(chan int64)
	go func() { done <- e.s.MakeRoom(t.Context(), evictSpan) }()
	<-asked
	must(t, e.layers["c"].Close())
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the probe ended with %v, not with the layer", err)
	}
	if n := <-done; n != 0 {
		t.Errorf("evicted %d bytes", n)
	}
}

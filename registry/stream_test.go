// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
)

func TestOpenRange(t *testing.T) {
	legs(t, func(t *testing.T, opts registrytest.Options) {
		s := start(t, opts)
		content := random(300_000)
		b := open(t, s, registry.Options{}).Blob(add(t, s, content))
		for _, r := range [][2]int64{{0, 1}, {0, 300_000}, {299_999, 1}, {1000, 70_000}, {300_000, 0}, {5, 0}} {
			got, err := readAll(b.OpenRange(t.Context(), r[0], r[1]))
			if err != nil || !bytes.Equal(got, content[r[0]:r[0]+r[1]]) {
				t.Errorf("[%d,+%d): %d bytes, %v", r[0], r[1], len(got), err)
			}
		}
		before := s.Stats().Range.Requests
		for _, r := range [][2]int64{{-1, 1}, {300_000, 1}, {299_999, 2}, {1 << 62, 1}, {5, -1}} {
			if _, err := b.OpenRange(t.Context(), r[0], r[1]); !errors.Is(err, registry.ErrRange) {
				t.Errorf("[%d,+%d): %v, want ErrRange", r[0], r[1], err)
			}
		}
		if got := s.Stats().Range.Requests; got != before {
			t.Errorf("%d requests for ranges that cannot be", got-before)
		}
	})
}

// TestOpenRangeResumes has bodies that end early: each byte is sent once.
func TestOpenRangeResumes(t *testing.T) {
	content := random(300_000)
	for _, cut := range []int64{-1, 1, 65_535, 99_999} {
		s := start(t, registrytest.Options{})
		b := open(t, s, registry.Options{}).Blob(add(t, s, content))
		s.Inject(registrytest.Fault{Kind: kindRange, Times: 3, Truncate: cut})
		got, err := readAll(b.OpenRange(t.Context(), 50_000, 200_000))
		if err != nil || !bytes.Equal(got, content[50_000:250_000]) {
			t.Errorf("cut at %d: %d bytes, %v", cut, len(got), err)
		}
		if n := s.Stats().Range.Bytes; n != 200_000 {
			t.Errorf("cut at %d: %d bytes sent for 200000", cut, n)
		}
	}
}

// TestOpenRangeEnds ends streams: by a registry that dribbles, by their context,
// and by Close.
func TestOpenRangeEnds(t *testing.T) {
	content := random(300_000)
	s := start(t, registrytest.Options{})
	b := open(t, s, registry.Options{}).Blob(add(t, s, content))
	s.Inject(registrytest.Fault{Truncate: 10})
	if _, err := readAll(b.OpenRange(t.Context(), 7, 50_000)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v, want unexpected EOF", err)
	}
	s.Heal()

	ctx, cancel := context.WithCancel(t.Context())
	rc := must[io.ReadCloser](t)(b.OpenRange(ctx, 7, 290_000))
	if _, err := io.ReadFull(rc, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(rc); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want canceled", err)
	}
	_ = rc.Close()

	rc = must[io.ReadCloser](t)(b.OpenRange(t.Context(), 7, 290_000))
	_ = rc.Close()
	if _, err := rc.Read(make([]byte, 10)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read after Close: %v", err)
	}
}

// TestOpenRangeWaits has a registry ask for longer waits than there is time for: they are
// not waited for.
func TestOpenRangeWaits(t *testing.T) {
	content := random(300_000)
	s := start(t, registrytest.Options{})
	desc := add(t, s, content)
	r := open(t, s, registry.Options{
		Retry:    registry.Retry{Max: 1000, MinWait: time.Millisecond, MaxWait: time.Hour},
		Timeouts: registry.Timeouts{Total: time.Minute},
	})
	for _, cut := range []int64{0, 100_000} { // at once, and in the middle
		if cut > 0 {
			s.Inject(registrytest.Fault{Kind: kindRange, Times: 1, Truncate: cut})
		}
		s.Inject(registrytest.Fault{Kind: kindRange, Status: 429, RetryAfter: 2 * time.Hour})
		begin := time.Now()
		got, err := readAll(r.Blob(desc).OpenRange(t.Context(), 0, 300_000))
		var e *registry.Error
		if !errors.As(err, &e) || e.Status != 429 || !strings.Contains(err.Error(), "without progress") {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if d := time.Since(begin); d > 30*time.Second {
			t.Errorf("took %v", d)
		}
		s.Heal()
	}
}

// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/fs"
	"github.com/seekoci/seekoci/fs/hold"
	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/snapshotter"
)

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// TestLayers holds that a layer's series go with the layer.
func TestLayers(t *testing.T) {
	m := New()
	d := digest.FromString("x")
	now := []snapshotter.LayerStats{{Layer: d, Path: "/mnt/x", Complete: true, Spans: span.Stats{Spans: 7, CompressedLen: 99}}}
	m.Layers(func() []snapshotter.LayerStats { return now })
	for _, want := range []string{
		fmt.Sprintf(`soci_fs_layer_size_bytes{digest=%q,mountpoint="/mnt/x"} 99`, d),
		fmt.Sprintf(`soci_fs_layer_spans{digest=%q,mountpoint="/mnt/x"} 7`, d),
		fmt.Sprintf(`soci_fs_layer_complete{digest=%q,mountpoint="/mnt/x"} 1`, d),
		fmt.Sprintf(`soci_fs_layer_verified{digest=%q,mountpoint="/mnt/x"} 0`, d),
	} {
		if got := scrape(t, m); !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	now = nil
	if got := scrape(t, m); strings.Contains(got, d.String()) {
		t.Error("series of a layer that is gone")
	}
}

// TestBound holds that the number of series is bounded, and which ones stay.
func TestBound(t *testing.T) {
	m := New()
	first, second := digest.FromString("first"), digest.FromString("second")
	m.Operation(snapshotter.OpMount, first, time.Second)
	m.Operation(snapshotter.OpMount, second, time.Second)
	m.Decision(snapshotter.Decision{Kind: snapshotter.Local, Reason: snapshotter.ReasonMount, Layer: first})
	for i := range maxObjects - 1 {
		m.Operation(snapshotter.OpZTOCFetch, digest.FromString(fmt.Sprint(i)), time.Second)
	}
	got := scrape(t, m)
	if !strings.Contains(got, fmt.Sprintf(`soci_fs_operation_count{layer=%q,operation_type="fuse_mount_failure_count"} 1`, first)) {
		t.Error("the layer seen last but for the others is gone")
	}
	if strings.Contains(got, second.String()) {
		t.Error("the layer not seen for longest is still there")
	}
	if n := strings.Count(got, "\nsoci_fs_operation_duration_milliseconds_count{"); n != maxObjects {
		t.Errorf("%d histograms, want %d", n, maxObjects)
	}
}

// TestCompletion holds which series a completed layer shows in.
func TestCompletion(t *testing.T) {
	m := New()
	d := digest.FromString("x")
	for _, r := range []snapshotter.CompletionResult{snapshotter.Verified, snapshotter.Mismatch, snapshotter.Failed, snapshotter.Dropped} {
		m.Completion(snapshotter.Completion{Layer: d, Result: r, Dur: time.Second})
	}
	got := scrape(t, m)
	for _, want := range []string{
		`soci_snapshotter_layers_completed_total{result="verified"} 1`,
		`soci_snapshotter_layers_completed_total{result="mismatch"} 1`,
		fmt.Sprintf(`soci_fs_operation_duration_milliseconds_count{layer=%q,operation_type="background_fetch"} 2`, d),
		fmt.Sprintf(`soci_fs_operation_count{layer=%q,operation_type="background_span_fetch_failure_count"} 1`, d),
		fmt.Sprintf(`soci_fs_operation_count{layer=%q,operation_type="background_fetch_work_queue_evicted"} 1`, d),
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
}

// TestHolder holds which series the mount and its holder show in.
func TestHolder(t *testing.T) {
	m := New()
	m.Mount(func() (fs.Stats, fs.Origin) { return fs.Stats{ReadErrors: 6, Panics: 7}, fs.Resumed })
	m.Holder(func() hold.Stats {
		return hold.Stats{Guards: 1, Resends: 2, Killed: 3, Failed: 4, Restarts: 5, Connected: true}
	})
	got := scrape(t, m)
	for _, want := range []string{
		"soci_fs_mount_resumed 1", "soci_fs_read_errors_total 6", "soci_fs_panics_total 7", "soci_holder_connected 1", "soci_holder_guards_total 1", "soci_holder_guard_resends_total 2",
		"soci_holder_guard_killed_total 3", "soci_holder_guard_failed_total 4", "soci_holder_restarts_total 5",
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %s in %s", want, got)
		}
	}
}

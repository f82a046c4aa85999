// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/benchmark/internal/image"
	"github.com/seekoci/seekoci/benchmark/internal/node"
)

// convergeTimeout bounds how long the layers take to become local.
const convergeTimeout = 2 * time.Minute

// await waits until the snapshotter's metrics satisfy ok.
func await(t *testing.T, n *node.Node, what string, ok func(m node.Metrics) bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(convergeTimeout); !ok(metrics(t, n)); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("after %v still not: %s", convergeTimeout, what)
		}
	}
}

// TestConverge has layers become complete, verified and independent of the registry by
// themselves, and what a start reads on one node be fetched ahead on another, which then starts without a registry.
func TestConverge(t *testing.T) {
	needSandbox(t)
	registry := ownRegistry(t)
	ref := registry.host + "/team/torture:1"
	must(t, torture(t).Push(t.Context(), ref))
	n := start(t, debian(t), "")
	ctr(t, n, "content", "fetch", "--plain-http", ref)
	v1(t, n, ref)

	rpull(t, n, ref)
	args := []string{"read", "2", image.BigGzip, image.Small, image.Plain1}
	want := run(t, n, ref, node.Soci, args...)
	await(t, n, "4 layers are verified", func(m node.Metrics) bool { return m.Completed("verified") == 4 })
	wantLogged(t, n, 4, map[string]string{"msg": "layer complete and verified"})
	if m := metrics(t, n); m.SpansFetched() != m.Spans() {
		t.Errorf("%d of %d spans fetched", m.SpansFetched(), m.Spans())
	}
	layers := strings.Count(soci(t, n, "prefetch", "record", ref), ": starts read ")
	if layers == 0 {
		t.Error("no layer has a profile")
	}
	soci(t, n, "push", "--plain-http", "--existing-index", "allow", ref)

	other := start(t, debian(t), onlyAsked)
	rpull(t, other, ref)
	await(t, other, "the layers that the start reads are prefetched", func(m node.Metrics) bool {
		return m.Sum("soci_fs_operation_count", `operation_type="prefetch"`) == float64(layers)
	})
	registry.stop()
	if got := run(t, other, ref, node.Soci, args...); got != want {
		t.Errorf("elsewhere %q, at first %q", got, want)
	}
	if m := metrics(t, other); m.SpansFetched() == m.Spans() {
		t.Error("all of the image was prefetched: that proves little")
	}
	must(t, n.StopSnapshotter(unix.SIGTERM))
	must(t, n.StartSnapshotter(t.Context()))
	all := run(t, n, ref, node.Soci, "tree")
	if all == "" || metrics(t, n).BytesFetched() != 0 {
		t.Errorf("after a restart without registry %d bytes were fetched, the tree is %.100q", metrics(t, n).BytesFetched(), all)
	}
}

// SPDX-License-Identifier: Apache-2.0

// Package metrics is what the daemon shows to Prometheus.
//
// A Metrics is told of what happens, and asks for the layers' counters when it
// is read:
//
//	m := metrics.New()
//	opts.OnDecision, opts.OnOperation = m.Decision, m.Operation
//	m.Layers(snapshotter.Layers)
//	mux.Handle("/metrics", m.Handler())
//
// # Limits
//
// Series of operations are kept for the last 1,024 layers and indexes.
//
// # Decisions
//
//   - Names, labels and buckets that the incumbent has are the same here. What is
//     about a layer disappears with the layer.
package metrics

import (
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/seekoci/seekoci/fs"
	"github.com/seekoci/seekoci/fs/hold"
	"github.com/seekoci/seekoci/snapshotter"
)

const (
	namespace  = "soci"
	subsystem  = "fs"
	maxObjects = 1024
)

// Metrics is the daemon's metrics. It is safe for concurrent use.
type Metrics struct {
	reg       *prometheus.Registry
	decisions *prometheus.CounterVec
	completed *prometheus.CounterVec
	count     *prometheus.CounterVec
	duration  *prometheus.HistogramVec

	mu      sync.Mutex
	objects []string // label values in count and duration, least recently seen first; guarded by mu
}

// New returns metrics of nothing yet.
func New() *Metrics {
	m := &Metrics{
		reg: prometheus.NewRegistry(),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: "snapshotter", Name: "decisions_total",
			Help: "What became of snapshots that containerd asked for, and why.",
		}, []string{"kind", "reason"}),
		completed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: "snapshotter", Name: "layers_completed_total",
			Help: "What became of lazy layers that were fetched to their end.",
		}, []string{"result"}),
		count: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "operation_count",
			Help: "The count of snapshotter operations. Broken down by operation type and layer sha.",
		}, []string{"operation_type", "layer"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "operation_duration_milliseconds",
			Help:    "Latency in milliseconds of snapshotter operations. Broken down by operation type and layer sha.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 15),
		}, []string{"operation_type", "layer"}),
	}
	m.reg.MustRegister(m.decisions, m.completed, m.count, m.duration,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.reg, promhttp.HandlerOpts{})
}

// Decision counts a decision of the snapshotter.
func (m *Metrics) Decision(d snapshotter.Decision) {
	m.decisions.WithLabelValues(string(d.Kind), string(d.Reason)).Inc()
	switch d.Reason {
	case snapshotter.ReasonMount, snapshotter.ReasonPrepare:
		m.seen(d.Layer, func(l string) { m.count.WithLabelValues("fuse_mount_failure_count", l).Inc() })
	case snapshotter.ReasonUnpack:
		m.seen(d.Layer, func(l string) { m.count.WithLabelValues("local_mount_failure_count", l).Inc() })
	}
}

// Operation counts an operation on a layer or index that took d.
func (m *Metrics) Operation(op snapshotter.Operation, object digest.Digest, d time.Duration) {
	m.seen(object, func(l string) {
		m.count.WithLabelValues(string(op), l).Inc()
		m.duration.WithLabelValues(string(op), l).Observe(float64(d) / float64(time.Millisecond))
	})
}

// Completion counts what became of a layer fetched to its end.
func (m *Metrics) Completion(c snapshotter.Completion) {
	m.completed.WithLabelValues(string(c.Result)).Inc()
	op := "background_fetch"
	switch c.Result {
	case snapshotter.Failed:
		op = "background_span_fetch_failure_count"
	case snapshotter.Dropped:
		op = "background_fetch_work_queue_evicted"
	}
	m.seen(c.Layer, func(l string) {
		m.count.WithLabelValues(op, l).Inc()
		if op == "background_fetch" {
			m.duration.WithLabelValues(op, l).Observe(float64(c.Dur) / float64(time.Millisecond))
		}
	})
}

// seen calls add for an object, and drops the series of the object not seen for longest.
func (m *Metrics) seen(object digest.Digest, add func(string)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := object.String()
	if i := slices.Index(m.objects, o); i >= 0 {
		m.objects = slices.Delete(m.objects, i, i+1)
	}
	m.objects = append(m.objects, o)
	if len(m.objects) > maxObjects {
		old := prometheus.Labels{"layer": m.objects[0]}
		m.objects = slices.Delete(m.objects, 0, 1)
		m.count.DeletePartialMatch(old)
		m.duration.DeletePartialMatch(old)
	}
	add(o)
}

// Layers makes the counters of the layers that list returns part of the metrics.
func (m *Metrics) Layers(list func() []snapshotter.LayerStats) {
	m.reg.MustRegister(layers{list})
}

// Mount makes what stats returns of the mount part of the metrics.
func (m *Metrics) Mount(stats func() (fs.Stats, fs.Origin)) {
	m.gauge(subsystem, "mount_resumed", "1 if the mount was taken over from a daemon before.", func() float64 {
		_, origin := stats()
		return float64(one(origin == fs.Resumed))
	})
	for _, c := range []struct {
		name, help string
		value      func(fs.Stats) int64
	}{
		{"read_errors_total", "Requests of the kernel answered with EIO.", func(s fs.Stats) int64 { return s.ReadErrors }},
		{"panics_total", "Requests of the kernel that panicked and were answered with EIO.", func(s fs.Stats) int64 { return s.Panics }},
	} {
		m.reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: c.name, Help: c.help,
		}, func() float64 {
			s, _ := stats()
			return float64(c.value(s))
		}))
	}
}

// Holder makes what stats returns of the holder part of the metrics.
func (m *Metrics) Holder(stats func() hold.Stats) {
	m.gauge("holder", "connected", "1 if there is a holder, without which containers would not survive the daemon.", func() float64 {
		return float64(one(stats().Connected))
	})
	for _, c := range []struct {
		name, help string
		value      func(hold.Stats) int64
	}{
		{"restarts_total", "Holders that the daemon had to replace.", func(s hold.Stats) int64 { return s.Restarts }},
		{"guards_total", "Times that the holder was without a daemon, up to this one.", func(s hold.Stats) int64 { return s.Guards }},
		{"guard_resends_total", "Times that it was for longer than a restart takes.", func(s hold.Stats) int64 { return s.Resends }},
		{"guard_killed_total", "Requests it ended then, as their process was being killed.", func(s hold.Stats) int64 { return s.Killed }},
		{"guard_failed_total", "Requests it answered then with EIO.", func(s hold.Stats) int64 { return s.Failed }},
	} {
		m.reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: "holder", Name: c.name, Help: c.help,
		}, func() float64 { return float64(c.value(stats())) }))
	}
}

func (m *Metrics) gauge(sub, name, help string, value func() float64) {
	m.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Subsystem: sub, Name: name, Help: help}, value))
}

// layers collects the counters of the layers being served.
type layers struct {
	list func() []snapshotter.LayerStats
}

// series is one counter of a layer.
type series struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(snapshotter.LayerStats) int64
}

func layerSeries() []series {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, subsystem, name), help, []string{"digest", "mountpoint"}, nil)
	}
	return []series{
		{desc("layer_fetched_size_bytes", "Total fetched size of the layer."), prometheus.CounterValue,
			func(s snapshotter.LayerStats) int64 { return s.Spans.BytesFetched }},
		{desc("layer_size_bytes", "Total size of the layer."), prometheus.CounterValue,
			func(s snapshotter.LayerStats) int64 { return s.Spans.CompressedLen }},
		{desc("layer_served_bytes", "Uncompressed bytes of the layer that were read."), prometheus.CounterValue,
			func(s snapshotter.LayerStats) int64 { return s.Spans.BytesServed }},
		{desc("layer_spans", "Spans of the layer."), prometheus.GaugeValue,
			func(s snapshotter.LayerStats) int64 { return int64(s.Spans.Spans) }},
		{desc("layer_spans_present", "Spans of the layer that are on disk."), prometheus.GaugeValue,
			func(s snapshotter.LayerStats) int64 { return int64(s.Spans.SpansPresent) }},
		{desc("layer_complete", "1 if all of the layer is on disk."), prometheus.GaugeValue,
			func(s snapshotter.LayerStats) int64 { return one(s.Complete) }},
		{desc("layer_verified", "1 if the layer was complete once, and what its image says."), prometheus.GaugeValue,
			func(s snapshotter.LayerStats) int64 { return one(s.Verified) }},
		{desc("layer_spans_fetched_total", "Spans of the layer fetched since the daemon started."), prometheus.CounterValue,
			func(s snapshotter.LayerStats) int64 { return s.Spans.SpansFetched }},
		{desc("layer_requests_total", "Range requests made for the layer."), prometheus.CounterValue,
			func(s snapshotter.LayerStats) int64 { return s.Spans.Requests }},
		{desc("layer_fetch_errors_total", "Range requests for the layer that failed."), prometheus.CounterValue,
			func(s snapshotter.LayerStats) int64 { return s.Spans.FetchErrors }},
	}
}

func one(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// Describe sends nothing: which layers there are changes.
func (layers) Describe(chan<- *prometheus.Desc) {}

// Collect sends the counters.
func (l layers) Collect(ch chan<- prometheus.Metric) {
	all := layerSeries()
	for _, s := range l.list() {
		for _, m := range all {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(m.value(s)), s.Layer.String(), s.Path)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/seekoci/seekoci/fs/span"
)

// Cache makes what stats returns of lazy layers on disk part of the metrics.
func (m *Metrics) Cache(stats func() span.StoreStats) {
	for _, g := range []struct {
		name, help string
		value      func(span.StoreStats) int64
	}{
		{"bytes", "Uncompressed bytes of lazy layers on disk.", func(s span.StoreStats) int64 { return s.Bytes }},
		{"memory_bytes", "Bytes of lazy layers kept in memory, as the disk takes no more.", func(s span.StoreStats) int64 { return s.KeptBytes }},
		{"low", "1 if there is no room to spare, so that nothing is fetched in the background.", func(s span.StoreStats) int64 { return one(s.Room != span.Enough) }},
		{"full", "1 if nothing can be written to disk.", func(s span.StoreStats) int64 { return one(s.Room == span.Full) }},
	} {
		m.gauge("cache", g.name, g.help, func() float64 { return float64(g.value(stats())) })
	}
	m.reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: namespace, Subsystem: "cache", Name: "evicted_bytes_total",
		Help: "Uncompressed bytes of lazy layers evicted from disk.",
	}, func() float64 { return float64(stats().Evicted) }))
}

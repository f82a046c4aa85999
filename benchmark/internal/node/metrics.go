// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// Metrics is one reading of the snapshotter's metrics.
type Metrics []Sample

// Sample is one value of a metric.
type Sample struct {
	Name   string
	Labels string // as Prometheus writes them, braces included; "" if there are none
	Value  float64
}

// Sum adds the samples of a metric whose labels contain all of match, such as `kind="lazy"`.
func (m Metrics) Sum(name string, match ...string) float64 {
	var sum float64
samples:
	for _, s := range m {
		if s.Name != name {
			continue
		}
		for _, label := range match {
			if !strings.Contains(s.Labels, label) {
				continue samples
			}
		}
		sum += s.Value
	}
	return sum
}

// The metrics that count what was fetched of lazy layers.
const (
	metricBytesFetched = "soci_fs_layer_fetched_size_bytes"
	metricBytes        = "soci_fs_layer_size_bytes"
	metricSpansFetched = "soci_fs_layer_spans_fetched_total"
	metricSpans        = "soci_fs_layer_spans"
	metricRequests     = "soci_fs_layer_requests_total"
	metricDecisions    = "soci_snapshotter_decisions_total"
	metricCompleted    = "soci_snapshotter_layers_completed_total"
)

// BytesFetched is the number of compressed bytes fetched of all lazy layers.
func (m Metrics) BytesFetched() int64 { return int64(m.Sum(metricBytesFetched)) }

// Bytes is the compressed size of all lazy layers.
func (m Metrics) Bytes() int64 { return int64(m.Sum(metricBytes)) }

// SpansFetched is the number of spans fetched.
func (m Metrics) SpansFetched() int64 { return int64(m.Sum(metricSpansFetched)) }

// Spans is the number of spans of all lazy layers.
func (m Metrics) Spans() int64 { return int64(m.Sum(metricSpans)) }

// Requests is the number of range requests made for spans.
func (m Metrics) Requests() int64 { return int64(m.Sum(metricRequests)) }

// Decisions is the number of layers of which the snapshotter has decided kind: active, lazy, local or fallback.
func (m Metrics) Decisions(kind string) int64 {
	return int64(m.Sum(metricDecisions, fmt.Sprintf("kind=%q", kind)))
}

// Completed is the number of lazy layers that have become wholly local, with the result of their verification: verified, mismatch or unverifiable.
func (m Metrics) Completed(result string) int64 {
	return int64(m.Sum(metricCompleted, fmt.Sprintf("result=%q", result)))
}

// Metrics asks the snapshotter for its metrics.
func (n *Node) Metrics(ctx context.Context) (_ Metrics, err error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", n.metricsSocket())
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://snapshotter/metrics", nil)
	if err != nil {
		return nil, err
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read metrics: status %s", res.Status)
	}
	return parseMetrics(res.Body)
}

// parseMetrics reads Prometheus's text format, timestamps excepted: the daemon writes none.
func parseMetrics(r io.Reader) (Metrics, error) {
	var m Metrics
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		if i < 0 {
			return nil, fmt.Errorf("metrics: no value in %q", line)
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: %q: %w", line, err)
		}
		s := Sample{Name: line[:i], Value: v}
		if j := strings.IndexByte(s.Name, '{'); j >= 0 {
			s.Name, s.Labels = s.Name[:j], s.Name[j:]
		}
		m = append(m, s)
	}
	return m, lines.Err()
}

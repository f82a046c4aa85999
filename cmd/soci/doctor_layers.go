// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/pelletier/go-toml/v2"

	"github.com/seekoci/seekoci/snapshotter"
)

// Bounds of what is read, in bytes.
const (
	maxConfig  = 1 << 20
	maxMetrics = 64 << 20
)

// layerReport is what the disk says of a lazy layer.
type layerReport struct {
	Layer    digest.Digest `json:"layer"`
	ZTOC     digest.Digest `json:"ztoc"`
	Size     int64         `json:"size"` // compressed bytes
	Images   []string      `json:"images"`
	Spans    int           `json:"spans"` // -1: not known
	Present  int           `json:"spansPresent"`
	Complete bool          `json:"complete"`
	Verified bool          `json:"verified"` // it was complete, and what its image says
	Trouble  string        `json:"trouble,omitempty"`
}

func (l layerReport) String() string {
	state := "lazy"
	switch {
	case l.Trouble != "":
		state = "damaged: " + l.Trouble
	case l.Verified && l.Complete:
		state = "verified"
	case l.Complete:
		state = "complete"
	case l.Spans < 0:
		state = "nothing fetched"
	}
	return fmt.Sprintf("layer %s: %s, %d of %d spans, %d bytes, of %s", l.Layer, state, l.Present, max(0, l.Spans), l.Size, strings.Join(l.Images, " "))
}

// layers reads the state of the lazy layers from disk.
func (d *doctor) layers(ctx context.Context) report {
	const name = "layers"
	one := func(f ...finding) report { return report{Checks: f} }
	dir := filepath.Join(d.root, "soci", "layers")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return one(ok(name, "none"))
	}
	if err != nil {
		return one(unseen(name, err))
	}
	var r report
	var complete, verified, damaged int
	n := len(entries)
	for _, e := range entries {
		if ctx.Err() != nil {
			return one(bad(statusUnseen, name, "", "%d are more than can be read in %v", len(entries), checkTimeout))
		}
		l := d.layer(e.Name())
		if _, err := os.Lstat(filepath.Join(dir, e.Name())); l.Trouble != "" && errors.Is(err, fs.ErrNotExist) {
			n-- // removed meanwhile
			continue
		}
		r.Layers = append(r.Layers, l)
		switch {
		case l.Trouble != "":
			damaged++
		case l.Complete && l.Verified:
			verified++
		case l.Complete:
			complete++
		}
	}
	seen := fmt.Sprintf("%d: %d being fetched, %d complete, %d verified", n, n-complete-verified-damaged, complete, verified)
	if damaged > 0 {
		r.Checks = append(r.Checks, bad(statusWarn, name, "restart soci-snapshotter-grpc, which looks these up anew; see --layers", "%s, %d damaged", seen, damaged))
	} else {
		r.Checks = append(r.Checks, ok(name, "%s", seen))
	}
	r.Checks = append(r.Checks, d.condemned())
	return r
}

// condemned counts the layers that are not to be served.
func (d *doctor) condemned() finding {
	const name = "condemned"
	entries, err := os.ReadDir(filepath.Join(d.root, "soci", "condemned"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unseen(name, err)
	}
	if len(entries) == 0 {
		return ok(name, "none")
	}
	return bad(statusWarn, name, "check the images with soci ztoc verify, and index them anew", "%d were not what their image says: the first is %s", len(entries), entries[0].Name())
}

// layer reads the state of the layer key.
func (d *doctor) layer(key string) layerReport {
	s, err := snapshotter.ReadLayer(d.root, key)
	l := layerReport{Layer: s.Layer, ZTOC: s.ZTOC, Size: s.Size, Images: s.Images, Verified: s.Verified, Spans: -1}
	if err != nil {
		l.Trouble = err.Error()
		return l
	}
	if s.Spans.Spans > 0 {
		l.Spans, l.Present, l.Complete = s.Spans.Spans, s.Spans.Present, s.Spans.Complete()
	}
	return l
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(p)) > limit {
		err = fmt.Errorf("read %s: more than %d bytes", path, limit)
	}
	return p, err
}

// daemonConfig is what doctor needs of the daemon's configuration.
type daemonConfig struct {
	MetricsAddress string `toml:"metrics_address"`
	MetricsNetwork string `toml:"metrics_network"`
	NoPrometheus   bool   `toml:"no_prometheus"`
	Holder         struct {
		Disable bool `toml:"disable"`
	} `toml:"holder"`
}

func (d *doctor) readConfig() (daemonConfig, error) {
	var c daemonConfig
	p, err := readBounded(d.config, maxConfig)
	if err == nil {
		err = toml.Unmarshal(p, &c)
	}
	return c, err
}

// decisionsReport is how often a Prepare ended in that way.
type decisionsReport struct {
	Kind   string `json:"kind"`
	Reason string `json:"reason"`
	Count  int64  `json:"count"`
}

// decisions asks the daemon's metrics why layers were not lazy.
func (d *doctor) decisions(ctx context.Context) report {
	const name = "decisions"
	one := func(f finding) report { return report{Checks: []finding{f}} }
	c, err := d.readConfig()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return one(unseen(name, fmt.Errorf("read %s: %w", d.config, err)))
	}
	if c.MetricsAddress == "" || c.NoPrometheus {
		return one(bad(statusUnseen, name, "set metrics_address in "+d.config, "why layers were not lazy is in the daemon's log alone"))
	}
	all, err := scrape(ctx, c)
	if err != nil {
		return one(unseen(name, fmt.Errorf("read metrics: %w", err)))
	}
	var lazy, other int64
	var why []string
	for _, x := range all {
		switch x.Kind {
		case "lazy":
			lazy += x.Count
		case "local", "fallback", "refused":
			other += x.Count
			why = append(why, fmt.Sprintf("%s %s %d", x.Kind, x.Reason, x.Count))
		}
	}
	f := ok(name, "%d layers lazy, %d not since the daemon started", lazy, other)
	if len(why) > 0 {
		f.Detail += ": " + strings.Join(why, ", ")
	}
	return report{Checks: []finding{f}, Decisions: all}
}

// decision matches a counter of what became of snapshots.
var decision = regexp.MustCompile(`^soci_snapshotter_decisions_total\{kind="([^"]*)",reason="([^"]*)"\} ([0-9.e+]+)$`)

// scrape reads the decisions from the metrics that c configures.
func scrape(ctx context.Context, c daemonConfig) ([]decisionsReport, error) {
	network := c.MetricsNetwork
	if network == "" {
		network = "tcp"
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, c.MetricsAddress)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://soci/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s says %s", c.MetricsAddress, resp.Status)
	}
	var all []decisionsReport
	lines := bufio.NewScanner(io.LimitReader(resp.Body, maxMetrics))
	for lines.Scan() {
		if m := decision.FindStringSubmatch(lines.Text()); m != nil {
			n, err := strconv.ParseFloat(m[3], 64)
			if err != nil {
				return nil, err
			}
			all = append(all, decisionsReport{m[1], m[2], int64(n)})
		}
	}
	return all, lines.Err()
}

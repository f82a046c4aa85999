// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
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
)

// Bounds of what is read, in bytes.
const (
	maxLayerState = 64 << 10
	maxSpanState  = 256 << 20
	maxConfig     = 1 << 20
	maxMetrics    = 64 << 20
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
	for _, e := range entries {
		if ctx.Err() != nil {
			return one(bad(statusUnseen, name, "", "%d are more than can be read in %v", len(entries), checkTimeout))
		}
		l := d.layer(e.Name())
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
	n := len(entries)
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
	var s struct {
		layerReport
		Version int `json:"version"`
	}
	l := layerReport{Spans: -1}
	p, err := readBounded(filepath.Join(d.root, "soci", "layers", key, "layer.json"), maxLayerState)
	if err == nil {
		err = json.Unmarshal(p, &s)
	}
	if err == nil && s.Version != 1 {
		err = fmt.Errorf("version %d is not 1", s.Version)
	}
	if err == nil {
		err = errors.Join(s.Layer.Validate(), s.ZTOC.Validate())
	}
	if err == nil && s.Layer.Encoded()+"-"+s.ZTOC.Encoded() != key {
		err = errors.New("is of another layer")
	}
	if err != nil {
		l.Trouble = fmt.Sprintf("%s: %v", key, err)
		return l
	}
	l.Layer, l.ZTOC, l.Size, l.Images, l.Verified = s.Layer, s.ZTOC, s.Size, s.Images, s.Verified
	l.Spans, l.Present, err = spansOf(filepath.Join(d.root, "soci", "spans", key, "state"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.Trouble = err.Error()
	}
	l.Complete = l.Spans >= 0 && l.Present == l.Spans
	return l
}

// spansOf counts the spans of a layer, and those whose bytes are on disk, in the state file that fs/span
// writes: a header of 48 bytes, and 8 for each span, two sums of which the second is over the first.
func spansOf(path string) (spans, present int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return -1, 0, err
	}
	defer f.Close()
	r := bufio.NewReader(io.LimitReader(f, maxSpanState))
	head := make([]byte, 48)
	if _, err := io.ReadFull(r, head); err != nil {
		return -1, 0, fmt.Errorf("read %s: %w", path, err)
	}
	if string(head[:8]) != "SOCISPAN" || binary.LittleEndian.Uint32(head[8:]) != 1 {
		return -1, 0, fmt.Errorf("read %s: not a state file, version 1", path)
	}
	spans = int(binary.LittleEndian.Uint32(head[12:]))
	table := crc32.MakeTable(crc32.Castagnoli)
	signed := append([]byte(nil), head[16:]...)
	signed = append(signed, make([]byte, 8)...) // span, sum
	for i := range spans {
		var slot [8]byte
		if _, err := io.ReadFull(r, slot[:]); err != nil {
			break // none has come so far
		}
		binary.LittleEndian.PutUint32(signed[32:], uint32(i))
		copy(signed[36:], slot[:4])
		if binary.LittleEndian.Uint32(slot[4:]) == crc32.Checksum(signed, table) {
			present++
		}
	}
	return spans, present, nil
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
		case "local", "fallback":
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

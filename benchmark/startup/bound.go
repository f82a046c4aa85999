// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/seekoci/seekoci/benchmark/internal/stat"
)

// trips is the number of round trips that depend on each other in any lazy start: the
// image's manifest, the referrers of that, the index, a zTOC, the first bytes.
const trips = 5

// network is what a line can do.
type network struct {
	rtt       float64 // seconds
	bandwidth float64 // bytes per second
}

// bound is the least time of a lazy start, in seconds: the run with everything in the
// page cache, the round trips, and the larger of fetching and inflating what it touches.
func bound(warm float64, touched pages, net network, rate float64, cores int) float64 {
	return warm + max(trips*net.rtt+touched.compressed/net.bandwidth, touched.uncompressed/(rate*float64(cores)))
}

// bounds are the measurements behind the lower bounds.
type bounds struct {
	touched        pages       // with readahead switched off
	rate           stat.Series // uncompressed bytes per second that igzip inflates on one processor
	loopback, line speeds
	fromDisk       []pages // of each round, on overlayfs: readahead included
	diskReadAhead  string  // there
}

// speeds are those of a line, of each round.
type speeds struct{ rtt, bandwidth stat.Series }

// of returns the lower bounds over a line, of each round.
func (b *bounds) of(s speeds, warm stat.Series) stat.Series {
	var least stat.Series
	for i := range min(len(warm), len(s.rtt), len(b.rate)) {
		least = append(least, bound(warm[i], b.touched, network{s.rtt[i], s.bandwidth[i]}, b.rate[i], runtime.NumCPU()))
	}
	return least
}

// measureBounds measures how fast things could go.
func (b *bench) measureBounds(ctx context.Context) error {
	start := time.Now()
	for _, l := range b.layers {
		if err := exec.CommandContext(ctx, "igzip", "-dc", l).Run(); err != nil {
			return fmt.Errorf("igzip -dc %s: %w", l, err)
		}
	}
	b.bound.rate = append(b.bound.rate, float64(b.image.TarSize)/time.Since(start).Seconds())
	for _, m := range []struct {
		host string
		to   *speeds
	}{{b.registry.Host(), &b.bound.loopback}, {b.line.Host(), &b.bound.line}} {
		if m.to == &b.bound.line && !b.wanted["link"] {
			continue
		}
		rtt, err := roundTrip(ctx, m.host)
		if err != nil {
			return err
		}
		seconds, err := b.download(ctx, m.host)
		if err != nil {
			return err
		}
		m.to.rtt = append(m.to.rtt, rtt)
		m.to.bandwidth = append(m.to.bandwidth, float64(b.image.CompressedSize())/seconds)
	}
	return nil
}

// roundTrip is the median time of a small request on a connection that is open, in seconds.
func roundTrip(ctx context.Context, host string) (float64, error) {
	client := newClient()
	defer client.CloseIdleConnections()
	var times []float64
	for range 21 {
		start := time.Now()
		if _, err := get(ctx, client, "http://"+host+"/v2/"); err != nil {
			return 0, err
		}
		times = append(times, time.Since(start).Seconds())
	}
	times = times[1:] // the first one opens the connection
	slices.Sort(times)
	return times[len(times)/2], nil
}

// download gets all layers at once, and returns the seconds that takes.
func (b *bench) download(ctx context.Context, host string) (float64, error) {
	client := newClient()
	defer client.CloseIdleConnections()
	start := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	for _, l := range b.image.Layers {
		g.Go(func() error {
			n, err := get(gctx, client, blobURL(host, l.Digest))
			if err == nil && n != l.Size {
				err = fmt.Errorf("download layer %s: %d bytes of %d came", l.Digest, n, l.Size)
			}
			return err
		})
	}
	err := g.Wait()
	return time.Since(start).Seconds(), err
}

// newClient is a client with connections of its own.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableCompression: true}}
}

// get reads the answer to the end and returns its size.
func get(ctx context.Context, client *http.Client, url string) (n int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("get %s: status %s", url, res.Status)
	}
	return io.Copy(io.Discard, res.Body)
}

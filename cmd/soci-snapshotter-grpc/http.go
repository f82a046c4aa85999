// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/seekoci/seekoci/cmd/soci-snapshotter-grpc/internal/config"
	"github.com/seekoci/seekoci/cmd/soci-snapshotter-grpc/internal/metrics"
)

// serveHTTP serves in g, until ctx is over, the endpoints that c asks for.
func serveHTTP(ctx context.Context, g *errgroup.Group, c config.Config, m *metrics.Metrics) error {
	if c.MetricsAddress != "" && !c.NoPrometheus {
		network := c.MetricsNetwork
		if network == "" {
			network = "tcp"
		}
		mux := http.NewServeMux()
		mux.Handle("/metrics", m.Handler())
		if err := endpoint(ctx, g, network, c.MetricsAddress, mux); err != nil {
			return fmt.Errorf("serve metrics: %w", err)
		}
	}
	if c.DebugAddress != "" {
		mux := http.NewServeMux()
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
		if err := endpoint(ctx, g, "tcp", c.DebugAddress, mux); err != nil {
			return fmt.Errorf("serve pprof: %w", err)
		}
	}
	return nil
}

func endpoint(ctx context.Context, g *errgroup.Group, network, address string, h http.Handler) error {
	if network == "unix" {
		if err := removeStale(ctx, address); err != nil {
			return fmt.Errorf("listen on %s: %w", address, err)
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, network, address)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", address, err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		return srv.Close()
	})
	return nil
}

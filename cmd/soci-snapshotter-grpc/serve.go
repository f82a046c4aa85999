// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/seekoci/seekoci/cmd/internal/version"
	"github.com/seekoci/seekoci/cmd/soci-snapshotter-grpc/internal/config"
	"github.com/seekoci/seekoci/cmd/soci-snapshotter-grpc/internal/metrics"
	"github.com/seekoci/seekoci/fs"
	"github.com/seekoci/seekoci/fs/hold"
	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/snapshotter"
)

// stopTimeout bounds each step of a stop: waiting for requests, cancelling them, unmounting.
const stopTimeout = 10 * time.Second

// options is what the command line says.
type options struct {
	address, root string
	config        config.Config
	log           *slog.Logger
}

// serve runs the daemon until ctx is over.
func serve(ctx context.Context, o options) (err error) {
	root, err := filepath.Abs(o.root)
	if err != nil {
		return fmt.Errorf("root %s: %w", o.root, err)
	}
	ro := o.config.Registry()
	ro.UserAgent = "soci-snapshotter/" + version.Version
	client, err := registry.NewClient(ro)
	if err != nil {
		return err
	}
	m := metrics.New()
	passed := activation.Files(true) // before any other process is started, which is to inherit none
	store, passed := hold.NewStore(os.Getenv("NOTIFY_SOCKET"), passed)
	so := o.config.Options()
	so.Root, so.Registry, so.Log = root, client, o.log
	so.OnDecision, so.OnOperation, so.OnCompletion = m.Decision, m.Operation, m.Completion
	start := time.Now()
	keeper, err := openHolder(ctx, root, store, o)
	if err != nil {
		return err
	}
	release := func() error { return nil }
	if keeper != nil {
		release, so.FS.Holder = keeper.Close, keeper
		so.FS.Patience = max(0, o.config.HolderOptions().Guard) // as long as for a daemon
		m.Holder(keeper.Stats)
	}
	sn, err := snapshotter.New(ctx, so)
	if err != nil {
		return errors.Join(err, release())
	}
	defer func() { err = errors.Join(err, leave(sn.Close, release, stopTimeout)) }()
	m.Layers(sn.Layers)
	m.Mount(sn.FS)
	m.Cache(sn.Cache)
	l, err := listen(ctx, o.address, passed)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return serveSnapshots(gctx, l, sn, o.log) })
	if err := serveHTTP(gctx, g, o.config, m); err != nil {
		g.Go(func() error { return err })
	} else {
		o.log.Info("serving", "address", o.address, "root", root, "version", version.Version, "revision", version.Revision(), "dur", time.Since(start), "resumed", resumed(sn))
		notify(o.log, daemon.SdNotifyReady)
	}
	<-gctx.Done()
	notify(o.log, daemon.SdNotifyStopping)
	o.log.Info("stopping")
	return g.Wait()
}

// openHolder returns what keeps the mount when the daemon ends. Without it, nil, all
// works until then. It is an error if a mount may be held that cannot be had: to start
// without it is to take it from the containers that use it.
func openHolder(ctx context.Context, root string, store *hold.Store, o options) (*hold.Client, error) {
	if o.config.Holder.Disable {
		return nil, nil
	}
	ho := o.config.HolderOptions()
	ho.Dir, ho.Log, ho.Store = holderDir(root), o.log, store
	keeper, err := hold.Open(ctx, ho)
	if errors.Is(err, hold.ErrUnreachable) {
		return nil, err
	}
	if err != nil {
		o.log.Warn("containers will lose their lazy layers when the daemon ends", "error", err)
		return nil, nil
	}
	return keeper, nil
}

// holderDir is where the holder of a root has its socket.
func holderDir(root string) string { return filepath.Join(root, "soci", "holder") }

func resumed(sn *snapshotter.Snapshotter) bool {
	_, origin := sn.FS()
	return origin == fs.Resumed
}

// serveSnapshots serves the gRPC API until ctx is over, then lets requests end.
func serveSnapshots(ctx context.Context, l net.Listener, sn *snapshotter.Snapshotter, log *slog.Logger) error {
	rpc := grpc.NewServer(grpc.UnaryInterceptor(contain(log)), grpc.StreamInterceptor(containStream(log)))
	snapshotsapi.RegisterSnapshotsServer(rpc, snapshotservice.FromSnapshotter(sn))
	served := make(chan error, 1)
	go func() { served <- rpc.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve snapshots: %w", err)
	case <-ctx.Done():
	}
	if err := stop(rpc, stopTimeout); err != nil {
		return err
	}
	return <-served
}

// stop lets requests end. After limit they are cancelled, and after as long
// again left behind.
func stop(rpc *grpc.Server, limit time.Duration) error {
	ended := make(chan struct{})
	go func() {
		rpc.GracefulStop()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-time.After(limit):
	}
	go rpc.Stop() // makes GracefulStop return, unless a request does not end
	select {
	case <-ended:
		return nil
	case <-time.After(limit):
		return fmt.Errorf("stop serving snapshots: requests go on %v after they were cancelled", limit)
	}
}

// contain makes an error of a panic in a request, so that one bad layer does
// not take the node's other containers along.
func contain(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (_ any, err error) {
		defer recovered(ctx, log, info.FullMethod, &err)
		return h(ctx, req)
	}
}

func containStream(log *slog.Logger) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) (err error) {
		defer recovered(ss.Context(), log, info.FullMethod, &err)
		return h(srv, ss)
	}
}

func recovered(ctx context.Context, log *slog.Logger, method string, err *error) {
	if v := recover(); v != nil {
		log.ErrorContext(ctx, "internal error", "method", method, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		*err = status.Errorf(codes.Internal, "%s: internal error: %v", method, v)
	}
}

// notify tells systemd, if it is there.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("notify systemd", "state", state, "error", err)
	}
}

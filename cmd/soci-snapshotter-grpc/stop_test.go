// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// slowSnapshots has requests that end when end says so.
type slowSnapshots struct {
	snapshotsapi.UnimplementedSnapshotsServer
	began chan struct{}
	end   func(ctx context.Context)
}

func (s *slowSnapshots) Mounts(ctx context.Context, _ *snapshotsapi.MountsRequest) (*snapshotsapi.MountsResponse, error) {
	close(s.began)
	s.end(ctx)
	return &snapshotsapi.MountsResponse{}, nil
}

// TestStop stops with a request under way: one that ends by itself, one that ends
// when it is cancelled, and one that does not end.
func TestStop(t *testing.T) {
	release := make(chan struct{})
	for _, c := range []struct {
		name     string
		limit    time.Duration
		end      func(context.Context)
		answered bool
		err      string
	}{
		{"ends", time.Minute, func(context.Context) {}, true, ""},
		{"ends when cancelled", 50 * time.Millisecond, func(ctx context.Context) { <-ctx.Done() }, false, ""},
		{"does not end", 50 * time.Millisecond, func(context.Context) { <-release }, false, "requests go on 50ms after they were cancelled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rpc := grpc.NewServer(grpc.UnaryInterceptor(contain(slog.New(slog.DiscardHandler))))
			slow := &slowSnapshots{began: make(chan struct{}), end: c.end}
			snapshotsapi.RegisterSnapshotsServer(rpc, slow)
			sock := filepath.Join(t.TempDir(), "s")
			l := must(net.Listen("unix", sock))(t)
			go rpc.Serve(l)
			conn := must(grpc.NewClient("unix://"+sock, grpc.WithTransportCredentials(insecure.NewCredentials())))(t)
			defer conn.Close()
			answer := make(chan error, 1)
			go func() {
				_, err := snapshotsapi.NewSnapshotsClient(conn).Mounts(t.Context(), &snapshotsapi.MountsRequest{})
				answer <- err
			}()
			<-slow.began
			if err := stop(rpc, c.limit); err == nil && c.err != "" || err != nil && (c.err == "" || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("stop: %v, want %q", err, c.err)
			}
			if err := <-answer; (err == nil) != c.answered {
				t.Errorf("the request's answer is %v", err)
			}
		})
	}
	close(release)
}

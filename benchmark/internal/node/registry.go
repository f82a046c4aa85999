// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
)

// DockerRegistry is Debian's docker-registry: a distribution 2.8, which has no referrers API.
type DockerRegistry struct {
	Host    string // such as 127.0.0.1:35001; plain http
	process *Process
}

// StartDockerRegistry starts a docker-registry that keeps its blobs below dir.
func StartDockerRegistry(ctx context.Context, dir string) (*DockerRegistry, error) {
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		return nil, fmt.Errorf("docker-registry is needed: %w (make deps installs it)", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "registry.yml")
	// Port 0 is any free one; the log tells which.
	config := fmt.Sprintf("version: 0.1\nlog: {level: info, formatter: json}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: '127.0.0.1:0'}\n", filepath.Join(dir, "blobs"))
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return nil, err
	}
	p, err := startProcess(filepath.Join(dir, "registry.log"), []string{"OTEL_TRACES_EXPORTER=none"}, program, "serve", file)
	if err != nil {
		return nil, err
	}
	listening := regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)
	r := &DockerRegistry{process: p}
	err = p.ready(ctx, func() bool {
		log, err := os.ReadFile(p.LogFile)
		if m := listening.FindSubmatch(log); err == nil && m != nil {
			r.Host = string(m[1])
		}
		return r.Host != ""
	})
	if err != nil {
		_ = p.Stop(unix.SIGKILL)
		return nil, err
	}
	return r, nil
}

// Close stops the registry.
func (r *DockerRegistry) Close() error { return r.process.Stop(unix.SIGTERM) }

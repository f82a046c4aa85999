// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// listen opens the daemon's socket: a path, unix://path, or fd:// for the one
// socket among the files that systemd has passed.
func listen(ctx context.Context, address string, passed []*os.File) (net.Listener, error) {
	if strings.HasPrefix(address, "fd://") {
		return inherited(address, passed)
	}
	path := strings.TrimPrefix(address, "unix://")
	if scheme, _, ok := strings.Cut(path, "://"); ok {
		return nil, fmt.Errorf("listen on %s: scheme %q is neither unix nor fd", address, scheme)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, errors.Join(err, l.Close()))
	}
	return l, nil
}

func inherited(address string, passed []*os.File) (net.Listener, error) {
	if len(passed) != 1 {
		return nil, fmt.Errorf("listen on %s: systemd passed %d sockets, not one", address, len(passed))
	}
	l, err := net.FileListener(passed[0])
	if err = errors.Join(err, passed[0].Close()); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return l, nil
}

// removeStale removes the socket at path if nobody listens on it. Anything but
// a socket is left alone.
func removeStale(ctx context.Context, path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode()&os.ModeSocket == 0 {
		return errors.New("exists and is not a socket")
	}
	d := net.Dialer{Timeout: time.Second}
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(errors.New("another daemon listens there"), c.Close())
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

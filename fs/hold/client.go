// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Errors of this package.
var (
	// ErrBusy is returned while another daemon has the holder.
	ErrBusy = errors.New("another daemon has the holder")
	// ErrUnreachable is returned where there is a holder that nobody can connect to. It may
	// have the mount.
	ErrUnreachable = errors.New("there is a holder that cannot be reached; if it does not come back, kill it")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("holder's client is closed")
)

// Options configures Open.
type Options struct {
	Dir string       // directory of the holder's socket, made if needed
	Log *slog.Logger // nil means slog.Default
	// Guard is how long after the end of a daemon the requests that wait fail with EIO,
	// and from when on all do until there is another; 0 means 60 s, negative never.
	Guard time.Duration
	// Grace is how long after the end of a daemon the guard begins; 0 means 1 s. Killed
	// processes that wait for an answer have to until then.
	Grace time.Duration
	Store *Store // systemd's; nil means there is none
}

// Defaults of Options.
const (
	DefaultGuard = 60 * time.Second
	DefaultGrace = time.Second
)

const (
	busyWait  = 10 * time.Second // a daemon that was killed may take that long to be gone
	busyTick  = 5 * time.Millisecond
	retryWait = time.Second // before a holder that cannot be started is tried again, at first
	retryMax  = time.Minute // and at last
	callWait  = 10 * time.Second
)

// Stats is a copy of counters.
type Stats struct {
	Guards    int64 // times that the holder went on guard
	Resends   int64 // times that the guard had the kernel deliver requests again
	Killed    int64 // requests that the guard ended as their process was being killed
	Failed    int64 // requests that the guard answered with EIO
	Restarts  int64 // holders that this client had to replace
	Connected bool  // there is a holder
}

// Client is a daemon's side of a holder. It is safe for concurrent use.
type Client struct {
	opts Options
	buf  []byte

	mu     sync.Mutex // serialises exchanges; guards what follows
	dir    int        // the directory; -1: none
	conn   int        // -1: none
	number int        // of the connection
	hello  bool       // the holder was told that we are the daemon
	old    held       // what it had then
	now    held       // what it is to hold
	stats  Stats
	closed bool

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// held is a mount's descriptor and what was said with it.
type held struct {
	fd    int // -1: none
	state []byte
}

// Open connects to the holder of opts.Dir, and starts one if there is none. If the error
// matches ErrUnreachable there may be a mount that containers use.
func Open(ctx context.Context, opts Options) (*Client, error) {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Guard == 0 {
		opts.Guard = DefaultGuard
	}
	if opts.Grace <= 0 {
		opts.Grace = DefaultGrace
	}
	c := &Client{opts: opts, dir: -1, conn: -1, old: held{fd: -1}, now: held{fd: -1}, buf: make([]byte, maxMessage)}
	c.mu.Lock()
	err := c.connect()
	c.mu.Unlock()
	if err != nil && opts.Store != nil && !errors.Is(err, ErrUnreachable) {
		opts.Log.Warn("there is no holder, the mount is in systemd's store only", "error", err)
		err = nil
	}
	if err != nil {
		closeFd(c.dir)
		return nil, fmt.Errorf("open holder in %s: %w", opts.Dir, err)
	}
	ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	c.wg.Go(func() { c.watch(ctx) })
	return c, nil
}

// Held returns what the daemon before has left, in the holder or in systemd's store, if
// match says yes to its state: a descriptor for the caller to close, or -1. The error
// matches ErrBusy if another daemon has the holder and does not end. With any error the
// holder may have the mount.
func (c *Client) Held(match func(state []byte) bool) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.insist(c.greet); mayHold(err) {
		return -1, fmt.Errorf("ask the holder for the mount: %w", err)
	} else if err != nil {
		c.opts.Log.Warn("holder not asked for the mount", "error", err)
	}
	candidates := []held{c.old}
	if c.opts.Store != nil {
		candidates = append(candidates, c.opts.Store.held()...)
	}
	for i, h := range candidates {
		if h.fd < 0 || !match(h.state) {
			continue
		}
		fd, err := dupFd(h.fd)
		if err != nil {
			return -1, fmt.Errorf("take over the mount: %w", err)
		}
		c.keep(h)
		if i > 0 { // it is in the store only
			if err := c.insist(c.give); err != nil {
				c.opts.Log.Warn("holder has not got the mount", "error", err)
			}
		}
		closeFd(c.old.fd)
		c.old = held{fd: -1}
		return fd, nil
	}
	return -1, nil
}

// mayHold reports whether there is a holder that may have the mount, although it has not
// been got from it: it does not answer in time, or there is no room for a descriptor.
func mayHold(err error) bool {
	for _, e := range []error{ErrBusy, ErrUnreachable, unix.EAGAIN, errMessage} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// keep makes h what is to be held.
func (c *Client) keep(h held) {
	dup, err := dupFd(h.fd)
	if err != nil {
		c.opts.Log.Warn("mount not held on", "error", err)
		return
	}
	closeFd(c.now.fd)
	c.now = held{dup, slices.Clone(h.state)}
	c.store()
}

// Hold has a duplicate of fd held, and state, in the place of what was held.
func (c *Client) Hold(fd int, state []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	dup, err := dupFd(fd)
	if err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	closeFd(c.now.fd)
	c.now = held{dup, slices.Clone(state)}
	stored := c.store()
	if err := c.insist(c.give); err != nil {
		if stored {
			c.opts.Log.Warn("mount is in systemd's store only", "error", err)
			return nil
		}
		return fmt.Errorf("hold: %w", err)
	}
	return nil
}

// store puts what is held into systemd's store, if there is one.
func (c *Client) store() bool {
	if c.opts.Store == nil {
		return false
	}
	if err := c.opts.Store.put(c.now); err != nil {
		c.opts.Log.Warn("mount not in systemd's store", "error", err)
		return false
	}
	return true
}

// Drop lets go of what is held.
func (c *Client) Drop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	closeFd(c.now.fd)
	c.now = held{fd: -1}
	closeFd(c.old.fd)
	c.old = held{fd: -1}
	var err error
	if c.opts.Store != nil {
		err = c.opts.Store.drop()
	}
	if c.conn >= 0 {
		err = errors.Join(err, c.greet())
		if _, _, e := c.call(message{kind: msgDrop}, -1); e != nil {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		return fmt.Errorf("drop what is held: %w", err)
	}
	return nil
}

// Stats returns the counters. What the holder counts is as of when this daemon began.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Connected = c.conn >= 0
	return s
}

// Close ends the connection. The holder is on guard from then on.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return ErrClosed
	}
	c.closed = true
	c.cancel()
	if c.conn >= 0 {
		_ = unix.Shutdown(c.conn, unix.SHUT_RDWR) // watch is waiting
	}
	c.mu.Unlock()
	c.wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, fd := range []int{c.conn, c.dir, c.now.fd, c.old.fd} {
		closeFd(fd)
	}
	c.conn = -1
	return nil
}

func dupFd(fd int) (int, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	return dup, os.NewSyscallError("fcntl", err)
}

// Release has the holder of dir, if there is one, let go of what it holds. It is ErrBusy
// while a daemon is connected.
func Release(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	c := &Client{dir: fd, buf: make([]byte, maxMessage)}
	defer unix.Close(fd)
	if c.conn, err = dial(fd); errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("release what is held in %s: %w", dir, err)
	}
	defer unix.Close(c.conn)
	if err = c.limit(); err == nil {
		_, _, err = c.call(message{kind: msgDrop}, -1)
	}
	if errors.Is(err, errEnd) || errors.Is(err, unix.EPIPE) {
		return nil // it has just ended, and holds nothing any more
	}
	if err != nil {
		return fmt.Errorf("release what is held in %s: %w", dir, err)
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// watch replaces a holder that ends.
func (c *Client) watch(ctx context.Context) {
	for wait := retryWait; ; {
		conn, number, err := c.connection()
		if conn >= 0 {
			ended(conn)
			unix.Close(conn)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = c.replace(number)
		}
		if err != nil {
			c.opts.Log.Error("there is no holder: what uses the mount would not survive this process", "error", err)
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
			wait = min(2*wait, retryMax)
			continue
		}
		wait = retryWait
	}
}

// connection returns a duplicate of the connection, or -1, and the connection's number.
// The connection's own descriptor may become another file's at any time.
func (c *Client) connection() (conn, number int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn = -1
	if c.conn >= 0 {
		conn, err = dupFd(c.conn)
	}
	return conn, c.number, err
}

// ended returns when the other side of a connection has ended it.
func ended(conn int) {
	p := []unix.PollFd{{Fd: int32(conn), Events: unix.POLLRDHUP}}
	for {
		_, err := unix.Poll(p, -1)
		if err != unix.EINTR {
			return
		}
	}
}

// replace replaces the holder that was connected to with that number, if nobody has yet.
func (c *Client) replace(number int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.number != number {
		return nil
	}
	if err := c.reconnect(); err != nil {
		closeFd(c.conn) // to begin anew
		c.conn, c.hello = -1, false
		return err
	}
	c.stats.Restarts++
	c.opts.Log.Info("holder replaced")
	return nil
}

// reconnect connects to the holder anew, and gives it what it is to hold. The caller holds c.mu.
func (c *Client) reconnect() error {
	closeFd(c.conn)
	c.conn, c.hello = -1, false
	if err := c.connect(); err != nil {
		return err
	}
	if c.now.fd < 0 {
		return nil
	}
	return c.give()
}

// insist does f, and again after a reconnect if the holder has ended: it may have been
// killed just now. The caller holds c.mu.
func (c *Client) insist(f func() error) error {
	err := f()
	if err == nil || errors.Is(err, ErrBusy) {
		return err
	}
	if again := c.reconnect(); again != nil {
		return errors.Join(err, again)
	}
	return f()
}

// connect connects to the holder, which is started if need be. The caller holds c.mu.
func (c *Client) connect() error {
	c.number++
	// Anew: it may have been deleted, and the holder has made it again.
	dir, err := openDir(c.opts.Dir)
	if err != nil {
		return err
	}
	closeFd(c.dir)
	c.dir = dir
	if c.conn, err = dial(c.dir); err == nil {
		return c.limit()
	}
	if says := lastCrash(c.dir); says != "" {
		c.opts.Log.Error("the holder before has crashed", "dir", c.opts.Dir, "says", says)
	}
	// The lock is taken where another is just being started, or is about to end.
	for end := time.Now().Add(callWait); ; time.Sleep(busyTick) {
		err := start(c.dir)
		if err != nil && !errors.Is(err, errLocked) {
			return err
		}
		if err != nil && time.Now().After(end) {
			return errors.Join(ErrUnreachable, err)
		}
		if c.conn, err = dial(c.dir); err == nil {
			return c.limit()
		}
		if time.Now().After(end) {
			return err
		}
	}
}

// limit bounds how long the holder may take to answer.
func (c *Client) limit() error {
	tv := unix.NsecToTimeval(int64(callWait))
	return os.NewSyscallError("setsockopt", unix.SetsockoptTimeval(c.conn, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
}

// greet tells the holder that we are the daemon, if it was not told. The caller holds c.mu.
func (c *Client) greet() error {
	if c.hello {
		return nil
	}
	if c.conn < 0 {
		return errEnd
	}
	m := message{msgHello, map[uint32][]byte{tagGrace: number(int64(c.opts.Grace)), tagGuard: number(int64(c.opts.Guard))}}
	reply, fd, err := c.call(m, -1)
	for end := time.Now().Add(busyWait); errors.Is(err, ErrBusy) && time.Now().Before(end); reply, fd, err = c.call(m, -1) {
		time.Sleep(busyTick)
	}
	if err != nil {
		return err
	}
	c.hello = true
	closeFd(c.old.fd)
	c.old = held{fd, reply.fields[tagState]}
	n := parseCounters(reply.fields[tagStats])
	c.stats.Guards, c.stats.Resends, c.stats.Killed, c.stats.Failed = n.guards, n.resends, n.killed, n.failed
	return nil
}

// give has the holder hold c.now. The caller holds c.mu.
func (c *Client) give() error {
	if err := c.greet(); err != nil {
		return err
	}
	_, fd, err := c.call(message{msgHold, map[uint32][]byte{tagState: c.now.state}}, c.now.fd)
	closeFd(fd)
	if err != nil {
		return err
	}
	// The holder has let go of it. Who uses what nobody serves is to know that.
	closeFd(c.old.fd)
	c.old = held{fd: -1}
	return nil
}

// call sends a message and returns the reply, with its descriptor or -1. The caller holds c.mu.
func (c *Client) call(m message, fd int) (message, int, error) {
	if c.conn < 0 {
		return message{}, -1, errEnd
	}
	err := send(c.conn, m, fd)
	var reply message
	if err == nil {
		reply, fd, err = receive(c.conn, c.buf)
	}
	if err != nil {
		// An answer that comes late would be taken for that of another message.
		_ = unix.Shutdown(c.conn, unix.SHUT_RDWR)
		return reply, -1, err
	}
	for tag, b := range reply.fields { // they are in c.buf
		reply.fields[tag] = slices.Clone(b)
	}
	if err := reply.err(); err != nil {
		closeFd(fd)
		return reply, -1, err
	}
	return reply, fd, nil
}

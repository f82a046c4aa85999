// SPDX-License-Identifier: Apache-2.0

// Package link is a slow line between a registry and those who ask it: a TCP proxy
// with the bandwidth and the round-trip time of a network, which needs no privileges
// and leaves the machine's other traffic alone.
//
// [New] starts a [Link]; all connections through it share its [Wire]s, one for each direction.
//
//	l, err := link.New(registry.Host(), link.Options{Bandwidth: link.Gigabit, RTT: 5 * time.Millisecond})
//	defer l.Close()
//	err = n.Pull(ctx, l.Host()+"/image:1", node.Soci)
//
// # Limits
//
// Nothing is lost, and there is no slow start: the line is at its full speed at once, which
// favours whoever opens many short connections. Bytes of TCP and IP headers are not counted.
// The proxy costs processor time, for all contenders alike.
//
// # Decisions
//
//   - A connection takes its next bytes only when those before have left, so that the line
//     is shared fairly and a small request does not wait behind another connection's megabytes.
//   - A timer that fires late makes the next bytes leave earlier, within a burst of a few
//     milliseconds: without that a line of many small waits is slower than it says.
//   - A new connection waits one round trip, which is what TCP's handshake takes.
package link

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Gigabit is the bandwidth of a line of 1 Gbit/s, in bytes per second.
const Gigabit = 1e9 / 8

// What moves at a time, and how much of it may be on the line of one connection.
const (
	chunkSize = 64 << 10
	maxChunks = 256
)

// Options configures New.
type Options struct {
	Bandwidth int64         // bytes per second of each direction; 0 means as fast as it gets
	RTT       time.Duration // round-trip time, half of it in each direction; 0 means none
}

// Link is a line to one address.
type Link struct {
	target   string
	delay    time.Duration // one way
	up, down *Wire
	ln       net.Listener
	chunks   sync.Pool
	received atomic.Int64
	closing  chan struct{}
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // open; nil once closed
}

// New starts a line from an address of its own to the target, host:port.
func New(target string, opts Options) (*Link, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start link to %s: %w", target, err)
	}
	l := &Link{
		target:  target,
		delay:   opts.RTT / 2,
		up:      NewWire(opts.Bandwidth),
		down:    NewWire(opts.Bandwidth),
		ln:      ln,
		chunks:  sync.Pool{New: func() any { return new([chunkSize]byte) }},
		closing: make(chan struct{}),
		conns:   make(map[net.Conn]bool),
	}
	l.wg.Go(l.accept)
	return l, nil
}

// Host is the address to ask instead of the target's, host:port.
func (l *Link) Host() string { return l.ln.Addr().String() }

// Received is the number of bytes that have come from the target so far, HTTP headers included.
func (l *Link) Received() int64 { return l.received.Load() }

// Close cuts all connections and waits for their end.
func (l *Link) Close() error {
	l.mu.Lock()
	if l.conns == nil {
		l.mu.Unlock()
		return fmt.Errorf("close link to %s: %w", l.target, net.ErrClosed)
	}
	close(l.closing)
	err := l.ln.Close()
	for c := range l.conns {
		_ = c.Close() // whoever uses it sees that
	}
	l.conns = nil
	l.mu.Unlock()
	l.wg.Wait()
	return err
}

func (l *Link) accept() {
	for {
		c, err := l.ln.Accept()
		if err != nil {
			return // closed
		}
		if l.add(c) {
			l.wg.Go(func() { l.serve(c) })
		}
	}
}

// add notes an open connection. After Close it closes it and reports false.
func (l *Link) add(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		_ = c.Close()
		return false
	}
	l.conns[c] = true
	return true
}

func (l *Link) remove(c net.Conn) {
	_ = c.Close() // it may be closed already
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// serve joins a connection to one of the target, until both directions have ended.
func (l *Link) serve(near net.Conn) {
	defer l.remove(near)
	far, err := net.Dial("tcp", l.target)
	if err != nil || !l.add(far) || !l.sleep(2*l.delay) {
		return
	}
	defer l.remove(far)
	var wg sync.WaitGroup
	wg.Go(func() { l.carry(far, near, l.up, new(atomic.Int64)) })
	wg.Go(func() { l.carry(near, far, l.down, &l.received) })
	wg.Wait()
}

// parcel is bytes on the line.
type parcel struct {
	data *[chunkSize]byte
	n    int
	due  time.Time // when they arrive
}

// carry moves bytes from src to dst until either ends, and passes the end on.
func (l *Link) carry(dst, src net.Conn, w *Wire, count *atomic.Int64) {
	line := make(chan parcel, maxChunks)
	var wg sync.WaitGroup
	wg.Go(func() { l.deliver(dst, src, line) })
	defer wg.Wait()
	defer close(line)
	for {
		data := l.chunks.Get().(*[chunkSize]byte)
		n, err := src.Read(data[:])
		if n > 0 {
			count.Add(int64(n))
			left := w.Send(time.Now(), n)
			if !l.sleep(time.Until(left)) {
				return
			}
			line <- parcel{data, n, left.Add(l.delay)}
		}
		if err != nil {
			return
		}
	}
}

// deliver writes what arrives. When it cannot, it takes the rest off the line.
func (l *Link) deliver(dst, src net.Conn, line <-chan parcel) {
	var err error
	for p := range line {
		if err == nil && l.sleep(time.Until(p.due)) {
			if _, err = dst.Write(p.data[:p.n]); err != nil {
				_ = src.Close() // its reader ends
			}
		}
		l.chunks.Put(p.data)
	}
	end(dst)
}

// end tells the other side that no more comes.
func end(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		if err := h.CloseWrite(); err == nil || errors.Is(err, net.ErrClosed) {
			return
		}
	}
	_ = c.Close()
}

// sleep waits; it reports false if the link is closed meanwhile.
func (l *Link) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.closing:
		return false
	}
}

var _ io.Closer = (*Link)(nil)

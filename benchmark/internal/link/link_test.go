// SPDX-License-Identifier: Apache-2.0

package link

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// start is when the tests' clock begins.
func start() time.Time { return time.Unix(1700000000, 0) }

// TestWireRate: n bytes take n/bandwidth, give or take the burst, however they are cut and
// however late the sender's timers are.
func TestWireRate(t *testing.T) {
	const bandwidth, rounding = 1_000_000, time.Microsecond
	rnd := rand.New(rand.NewPCG(1, 1))
	for _, late := range []time.Duration{0, 100 * time.Microsecond, time.Millisecond} {
		w := NewWire(bandwidth)
		now, sent := start(), 0
		for sent < 5*bandwidth {
			n := 1 + rnd.IntN(chunkSize)
			sent += n
			if left := w.Send(now, n); left.After(now) {
				now = left.Add(time.Duration(rnd.Int64N(int64(late) + 1)))
			}
		}
		want := time.Duration(sent) * time.Second / bandwidth
		if took := now.Sub(start()); took < want-burst-rounding || took > want+late {
			t.Errorf("timers up to %v late: %d bytes took %v, want %v", late, sent, took, want)
		}
	}
}

// TestWireIdle: a wire that was idle for long sends no more than a burst at once.
func TestWireIdle(t *testing.T) {
	w := NewWire(1_000_000)
	w.Send(start(), 1000)
	now := start().Add(time.Hour)
	if left, want := w.Send(now, 10_000), 10*time.Millisecond-burst; left.Sub(now) != want {
		t.Errorf("10,000 bytes leave after %v, want %v", left.Sub(now), want)
	}
	if left, want := w.Send(now, 1000), 11*time.Millisecond-burst; left.Sub(now) != want {
		t.Errorf("what comes next leaves after %v, want %v: behind the rest", left.Sub(now), want)
	}
}

// TestWireUnlimited: without a bandwidth everything leaves at once.
func TestWireUnlimited(t *testing.T) {
	if left := NewWire(0).Send(start(), 1<<30); !left.Equal(start()) {
		t.Errorf("left after %v", left.Sub(start()))
	}
}

// TestLink: what comes through is what was sent, in both directions, not faster than
// the line; and a round trip takes its time.
func TestLink(t *testing.T) {
	body := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(body)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, err := io.ReadAll(r.Body)
		if err != nil || string(got) != "question" {
			t.Errorf("the server reads %q, %v", got, err)
		}
		_, _ = w.Write(body)
	}))
	defer srv.Close()
	const rtt = 20 * time.Millisecond
	l, err := New(srv.Listener.Addr().String(), Options{Bandwidth: 10 << 20, RTT: rtt})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	begin := time.Now()
	res, err := http.Post("http://"+l.Host(), "text/plain", strings.NewReader("question"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	first := time.Since(begin)
	got, err := io.ReadAll(res.Body)
	took := time.Since(begin)
	if err != nil || !bytes.Equal(got, body) {
		t.Fatalf("%d bytes came, %v", len(got), err)
	}
	if first < 2*rtt {
		t.Errorf("the answer came after %v; the handshake and one round trip alone are %v", first, 2*rtt)
	}
	if least := 100*time.Millisecond - burst + rtt; took < least {
		t.Errorf("1 MiB at 10 MiB/s took %v, less than %v", took, least)
	}
	if n := l.Received(); n < int64(len(body)) || n > int64(len(body))+1<<10 {
		t.Errorf("received %d bytes, the body alone is %d", n, len(body))
	}
}

// TestCloseLink: Close cuts connections in the middle, and returns when all is over.
func TestCloseLink(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	sending := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			ended <- err
			return
		}
		defer c.Close()
		for i := 0; ; i++ {
			if _, err := c.Write(make([]byte, chunkSize)); err != nil {
				ended <- nil // as it must
				return
			}
			if i == 0 {
				close(sending)
			}
		}
	}()
	l, err := New(ln.Addr().String(), Options{Bandwidth: 1 << 20, RTT: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", l.Host())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-sending
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	_, _ = io.Copy(io.Discard, c) // with or without an error: what matters is that it ends
	if err := l.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
}

// TestUnreachable: without a target connections end.
func TestUnreachable(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := New(target, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Host())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, _ := c.Read(make([]byte, 1)); n != 0 {
		t.Error("something answers")
	}
}

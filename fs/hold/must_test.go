// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets this program be the holder, too.
func TestMain(m *testing.M) {
	if Invoked(os.Args) {
		os.Exit(Main())
	}
	os.Exit(m.Run())
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition that another process will bring about.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.After(20 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("gave up waiting: %s", what)
		}
	}
}

// testDir is a directory whose path is longer than a socket's address. A holder that is just
// ending may still make files there while it is removed.
func testDir(t testing.TB) string {
	t.Helper()
	top := must(os.MkdirTemp("", "hold"))(t)
	t.Cleanup(func() {
		until(t, "the directory goes", func() bool { return os.RemoveAll(top) == nil })
	})
	return filepath.Join(top, strings.Repeat("long", 30), "hold")
}

func open(t testing.TB, o Options) *Client {
	t.Helper()
	o.Log = slog.New(slog.DiscardHandler)
	c := must(Open(t.Context(), o))(t)
	t.Cleanup(func() {
		if err := c.Drop(); err != nil && !c.closed {
			t.Error(err)
		}
		c.Close()
	})
	return c
}

// holderPID returns the process that the client is connected to.
func holderPID(t testing.TB, c *Client) int {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn < 0 {
		return 0
	}
	cred := must(unix.GetsockoptUcred(c.conn, unix.SOL_SOCKET, unix.SO_PEERCRED))(t)
	return int(cred.Pid)
}

func running(pid int) bool {
	p, err := os.ReadFile("/proc/" + itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(p), ") Z ")
}

// device stands in for a mount: what is written to ours arrives at theirs. It is at its end
// when theirs is closed.
func device(t testing.TB) (ours int, theirs *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	check(t, err)
	t.Cleanup(func() { r.Close() })
	ours = must(dupFd(int(w.Fd())))(t)
	check(t, w.Close())
	t.Cleanup(func() { unix.Close(ours) })
	return ours, r
}

func same(t testing.TB, a, b int) bool {
	t.Helper()
	var x, y unix.Stat_t
	check(t, unix.Fstat(a, &x))
	check(t, unix.Fstat(b, &y))
	return x.Dev == y.Dev && x.Ino == y.Ino
}

// systemd keeps what is put into its store.
type systemd struct {
	t     testing.TB
	conn  *net.UnixConn
	path  string
	store map[string][]*os.File
}

func newSystemd(t testing.TB) *systemd {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn := must(net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}))(t)
	t.Cleanup(func() { conn.Close() })
	return &systemd{t: t, conn: conn, path: path, store: make(map[string][]*os.File)}
}

// read reads a message, and does what it says.
func (s *systemd) read() string {
	s.t.Helper()
	check(s.t, s.conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	buf, oob := make([]byte, 1024), make([]byte, 64)
	n, oobn, _, _, err := s.conn.ReadMsgUnix(buf, oob)
	check(s.t, err)
	msg := string(buf[:n])
	_, name, _ := strings.Cut(msg, "FDNAME=")
	switch fd := received(oob[:oobn]); {
	case strings.HasPrefix(msg, "FDSTORE=1") && fd >= 0:
		s.store[name] = append(s.store[name], os.NewFile(uintptr(fd), name))
	case strings.HasPrefix(msg, "FDSTOREREMOVE=1"):
		delete(s.store, name)
	}
	return msg
}

// passed is what systemd passes to the next start of the unit.
func (s *systemd) passed() []*os.File {
	s.t.Helper()
	var all []*os.File
	for name, files := range s.store {
		for _, f := range files {
			all = append(all, os.NewFile(uintptr(must(dupFd(int(f.Fd())))(s.t)), name))
		}
	}
	return all
}

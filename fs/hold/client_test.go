// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func itoa(n int) string { return strconv.Itoa(n) }

// take takes over what has the state.
func take(t testing.TB, c *Client, want string) int {
	t.Helper()
	fd, err := c.Held(func(state []byte) bool { return string(state) == want })
	if err != nil || fd < 0 {
		t.Fatalf("held: %d, %v, want one with %q", fd, err, want)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// TestHandOver gives a descriptor from one daemon to the next, and to the one after it.
func TestHandOver(t *testing.T) {
	dir := testDir(t)
	ours, theirs := device(t)
	c := open(t, Options{Dir: dir})
	if fd, err := c.Held(func([]byte) bool { return true }); fd >= 0 || err != nil {
		t.Errorf("something is held in the beginning: %d, %v", fd, err)
	}
	check(t, c.Hold(ours, []byte("state")))
	pid := holderPID(t, c)
	check(t, c.Close())
	if err := c.Hold(ours, []byte("state")); !errors.Is(err, ErrClosed) {
		t.Errorf("hold after close: %v", err)
	}
	for range 2 {
		c = open(t, Options{Dir: dir})
		if holderPID(t, c) != pid {
			t.Error("there is another holder")
		}
		if fd, err := c.Held(func([]byte) bool { return false }); fd >= 0 || err != nil {
			t.Errorf("held is what does not match: %d, %v", fd, err)
		}
		if !same(t, take(t, c, "state"), ours) {
			t.Error("another file is held")
		}
		check(t, c.Close())
	}

	// It ends with the mount.
	if !running(pid) {
		t.Fatal("the holder has ended")
	}
	theirs.Close()
	until(t, "the holder ends", func() bool { return !running(pid) })
}

// TestDiscipline holds what the holder is like: no descriptors, session, directory or
// signals of its parent.
func TestDiscipline(t *testing.T) {
	leak := must(os.Open("/etc/passwd"))(t)
	defer leak.Close()
	ours, _ := device(t)
	c := open(t, Options{Dir: testDir(t)})
	check(t, c.Hold(ours, []byte("state")))
	pid := holderPID(t, c)
	proc := "/proc/" + itoa(pid)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE} {
		check(t, unix.Kill(pid, sig))
	}
	if sid := must(unix.Getsid(pid))(t); sid != pid {
		t.Errorf("session is %d, pid %d", sid, pid)
	}
	if cwd := must(os.Readlink(proc + "/cwd"))(t); cwd != "/" {
		t.Errorf("cwd is %s", cwd)
	}
	if comm := must(os.ReadFile(proc + "/comm"))(t); string(comm) != "soci-holder\n" {
		t.Errorf("name is %q", comm)
	}
	for _, fd := range must(os.ReadDir(proc + "/fd"))(t) {
		to, _ := os.Readlink(proc + "/fd/" + fd.Name())
		switch n, _ := strconv.Atoi(fd.Name()); {
		case n < 3 && to != "/dev/null", to == "/etc/passwd":
			t.Errorf("descriptor %d is %s", n, to)
		}
	}
	status := string(must(os.ReadFile(proc + "/status"))(t))
	for line := range strings.Lines(status) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		if f[0] == "VmRSS:" {
			t.Logf("resident: %s KiB", f[1])
		}
		if n, _ := strconv.Atoi(f[1]); f[0] == "VmLck:" && n < bufferSize>>10 {
			t.Errorf("locked: %s KiB", f[1])
		}
	}
	if st := c.Stats(); !st.Connected || st.Restarts != 0 {
		t.Errorf("stats %+v", st)
	}
}

// TestHolderKilled kills the holder: the daemon replaces it, and the next daemon finds
// what was held.
func TestHolderKilled(t *testing.T) {
	dir := testDir(t)
	ours, _ := device(t)
	c := open(t, Options{Dir: dir})
	check(t, c.Hold(ours, []byte("state")))
	for i := range 3 {
		pid := holderPID(t, c)
		check(t, unix.Kill(pid, unix.SIGKILL))
		until(t, "the holder is replaced", func() bool { return c.Stats().Restarts == int64(i+1) })
		if holderPID(t, c) == pid {
			t.Error("it is the same")
		}
	}
	check(t, c.Close())
	c = open(t, Options{Dir: dir})
	if !same(t, take(t, c, "state"), ours) {
		t.Error("another file is held")
	}
}

// TestBusy has two daemons ask for the same mount: the second gets it once the first is gone.
func TestBusy(t *testing.T) {
	dir := testDir(t)
	ours, _ := device(t)
	first := open(t, Options{Dir: dir})
	check(t, first.Hold(ours, []byte("state")))
	second := open(t, Options{Dir: dir})
	second.mu.Lock()
	_, _, err := second.call(message{kind: msgHello}, -1)
	second.mu.Unlock()
	if !errors.Is(err, ErrBusy) {
		t.Errorf("second daemon: %v", err)
	}
	if err := Release(dir); !errors.Is(err, ErrBusy) {
		t.Errorf("release: %v", err)
	}
	got := make(chan bool)
	go func() {
		fd, err := second.Held(func([]byte) bool { return true })
		got <- fd >= 0 && err == nil
	}()
	check(t, first.Close())
	if !<-got {
		t.Error("the second daemon has not got it")
	}
	check(t, second.Close())
	pid := holderPID(t, open(t, Options{Dir: dir}))
	until(t, "the holder lets go", func() bool { return Release(dir) == nil })
	if !running(pid) {
		t.Error("the holder ends with a client connected")
	}
	if err := Release(t.TempDir()); err != nil {
		t.Errorf("release of nothing: %v", err)
	}
}

// TestVersions speaks to a holder as one of another version does.
func TestVersions(t *testing.T) {
	dir := testDir(t)
	ours, _ := device(t)
	c := open(t, Options{Dir: dir})
	c.mu.Lock()
	reply, _, err := c.call(message{kind: 33}, -1)
	if err == nil || reply.kind != msgUnknown {
		t.Errorf("unknown type: %d, %v", reply.kind, err)
	}
	_, _, err = c.call(message{msgHello, map[uint32][]byte{999: []byte("news"), tagGuard: {1}}}, -1)
	check(t, err)
	_, _, err = c.call(message{msgHold, map[uint32][]byte{tagState: []byte("state"), 77: nil}}, ours)
	check(t, err)
	for _, m := range []message{{msgHold, nil}, {msgHold, map[uint32][]byte{tagState: []byte("x")}}} {
		if _, _, err := c.call(m, -1); err == nil {
			t.Error("held without a descriptor")
		}
	}
	c.mu.Unlock()
	check(t, c.Close())
	take(t, open(t, Options{Dir: dir}), "state")
}

func TestParse(t *testing.T) {
	m := message{msgHello, map[uint32][]byte{tagGrace: number(7), tagState: []byte("abc")}}
	got := must(parse(m.marshal()))(t)
	if got.kind != m.kind || got.number(tagGrace) != 7 || string(got.fields[tagState]) != "abc" || got.number(tagState) != 0 {
		t.Errorf("parsed %+v", got)
	}
	for _, p := range []string{"", "\x01\x00", "\x01\x01\x00\x00\x00\x05\x00\x00\x00abcd", "\x01\x01\x00\x00\x00\xff\xff\xff\xff"} {
		if _, err := parse([]byte(p)); err == nil {
			t.Errorf("parsed %q", p)
		}
	}
	long := append(counters{1, 2, 3, 4}.marshal(), number(5)...)
	if c := parseCounters(long); c != (counters{1, 2, 3, 4}) {
		t.Errorf("counters %+v", c)
	}
	if c := parseCounters(number(9)); c != (counters{guards: 9}) {
		t.Errorf("counters %+v", c)
	}
}

// TestStore has systemd keep the mount while daemon and holder are both killed.
func TestStore(t *testing.T) {
	dir := testDir(t)
	ours, _ := device(t)
	sd := newSystemd(t)
	listener, other, err := os.Pipe()
	check(t, err)
	defer other.Close()
	store, rest := NewStore(sd.path, []*os.File{listener})
	if len(rest) != 1 || rest[0] != listener {
		t.Errorf("left are %v", rest)
	}
	c := open(t, Options{Dir: dir, Store: store})
	check(t, c.Hold(ours, []byte("state")))
	for range 4 { // twice nothing is removed, then state and mount are stored
		if msg := sd.read(); strings.HasSuffix(msg, "="+storeMount) && strings.HasPrefix(msg, "FDSTORE=") && !strings.Contains(msg, "\nFDPOLL=0\n") {
			t.Errorf("systemd is told %q", msg)
		}
	}
	pid := holderPID(t, c)
	check(t, c.Close())
	check(t, unix.Kill(pid, unix.SIGKILL))
	until(t, "the holder ends", func() bool { return !running(pid) })

	store, rest = NewStore(sd.path, append(sd.passed(), listener))
	if len(rest) != 1 || rest[0] != listener {
		t.Errorf("left are %v", rest)
	}
	c = open(t, Options{Dir: dir, Store: store})
	if !same(t, take(t, c, "state"), ours) {
		t.Error("another file is held")
	}
	if len(sd.store[storeMount]) != 1 || len(sd.store[storeState]) != 1 {
		t.Errorf("store is %v", sd.store)
	}
	check(t, c.Close())
	take(t, open(t, Options{Dir: dir}), "state") // the holder has it again
	check(t, store.drop())
	for range 2 {
		sd.read()
	}
	if len(sd.store) != 0 {
		t.Errorf("store is %v", sd.store)
	}
}

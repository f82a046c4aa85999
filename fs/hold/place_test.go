// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDirectoryDeleted takes the holder's directory away, with all in it, while a daemon is
// there and while none is: the next one finds the holder all the same.
func TestDirectoryDeleted(t *testing.T) {
	for _, how := range []struct {
		name string
		lose func(dir string) error
	}{
		{"deleted", func(dir string) error {
			err := os.RemoveAll(dir)
			if errors.Is(err, unix.ENOTEMPTY) {
				err = nil // the holder was faster
			}
			return err
		}},
		{"with its parent", func(dir string) error { _ = os.RemoveAll(filepath.Dir(dir)); return nil }},
		{"moved", func(dir string) error { return os.Rename(dir, must(os.MkdirTemp(t.TempDir(), ""))(t)+"/old") }},
		{"lock and socket", func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, lockName)), os.Remove(filepath.Join(dir, socketName)))
		}},
	} {
		t.Run(how.name, func(t *testing.T) {
			dir := testDir(t)
			ours, _ := device(t)
			c := open(t, Options{Dir: dir})
			check(t, c.Hold(ours, []byte("state")))
			pid := holderPID(t, c)
			back := func() {
				t.Helper()
				check(t, how.lose(dir))
				until(t, "the holder listens", func() bool {
					fd, err := openDir(filepath.Dir(dir)) // which makes its parents at least
					if err != nil {
						return false
					}
					defer unix.Close(fd)
					if _, err := os.Stat(filepath.Join(dir, lockName)); err != nil {
						return false
					}
					d, err := unix.Open(dir, unix.O_RDONLY|unix.O_CLOEXEC, 0)
					if err != nil {
						return false
					}
					defer unix.Close(d)
					conn, err := dial(d)
					closeFd(conn)
					return err == nil
				})
			}
			back()
			check(t, c.Close())
			back()
			for range 2 {
				c = open(t, Options{Dir: dir})
				if now := holderPID(t, c); now != pid {
					t.Errorf("the holder is %d, not %d", now, pid)
				}
				take(t, c, "state")
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}

			// And where the holder is lost after that, another one is started there.
			c = open(t, Options{Dir: dir})
			take(t, c, "state")
			back()
			check(t, unix.Kill(pid, unix.SIGKILL))
			until(t, "the holder is replaced", func() bool { return c.Stats().Restarts == 1 })
			check(t, c.Close())
			c = open(t, Options{Dir: dir})
			take(t, c, "state")
		})
	}
}

// ticks is the processor time that a process has taken, in hundredths of a second.
func ticks(t testing.TB, pid int) int {
	t.Helper()
	p := must(os.ReadFile("/proc/" + itoa(pid) + "/stat"))(t)
	f := strings.Fields(string(p[strings.LastIndexByte(string(p), ')')+2:]))
	return must(strconv.Atoi(f[11]))(t) + must(strconv.Atoi(f[12]))(t)
}

// TestNoDescriptors has a holder without room for a connection: it waits for some, and
// takes no processor time for that.
func TestNoDescriptors(t *testing.T) {
	dir := testDir(t)
	ours, _ := device(t)
	c := open(t, Options{Dir: dir})
	check(t, c.Hold(ours, []byte("state")))
	pid := holderPID(t, c)
	var was unix.Rlimit
	check(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: 1024}, &was))
	d := must(openDir(dir))(t)
	defer unix.Close(d)
	second := must(dial(d))(t)
	defer unix.Close(second)
	before := ticks(t, pid)
	<-time.After(time.Second) // the time in which it would take a hundred
	if n := ticks(t, pid) - before; n > 30 {
		t.Errorf("the holder took %d hundredths of a second", n)
	}
	check(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1024, Max: 1024}, nil))
	check(t, send(second, message{kind: msgHello}, -1))
	reply, _, err := receive(second, make([]byte, maxMessage))
	if err != nil || !errors.Is(reply.err(), ErrBusy) {
		t.Errorf("the second daemon is told %d, %v", reply.kind, err)
	}
}

// TestLookDeleted has the directory deleted before the holder asks where it is.
func TestLookDeleted(t *testing.T) {
	for _, name := range []string{"dir", "dir (deleted)"} {
		for _, deleted := range []bool{false, true} {
			path := filepath.Join(must(filepath.EvalSymlinks(t.TempDir()))(t), name)
			check(t, os.Mkdir(path, 0o700))
			h := &holder{dir: must(openDir(path))(t)}
			if deleted {
				check(t, os.Remove(path))
			}
			h.look()
			if h.path != path {
				t.Errorf("%s, deleted %t: looks at %s", path, deleted, h.path)
			}
			closeFd(h.dir)
			closeFd(h.notes)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ends waits for the last descriptor of a device to be closed.
func ends(t testing.TB, theirs *os.File) {
	t.Helper()
	check(t, theirs.SetReadDeadline(time.Now().Add(10*time.Second)))
	if n, err := theirs.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("it is still open: %d, %v", n, err)
	}
}

// TestNotAskedFor has another mount held without a look at the one before: nobody keeps that.
func TestNotAskedFor(t *testing.T) {
	dir := testDir(t)
	r, w, err := os.Pipe()
	check(t, err)
	defer r.Close()
	c := open(t, Options{Dir: dir})
	check(t, c.Hold(int(w.Fd()), []byte("before")))
	check(t, c.Close())
	check(t, w.Close())
	now, _ := device(t)
	c = open(t, Options{Dir: dir})
	check(t, c.Hold(now, []byte("now")))
	ends(t, r)
}

// TestSocketDeleted takes the holder's socket away: the next daemon finds it all the same.
func TestSocketDeleted(t *testing.T) {
	dir := testDir(t)
	ours, _ := device(t)
	c := open(t, Options{Dir: dir, Grace: 50 * time.Millisecond})
	check(t, c.Hold(ours, []byte("state")))
	pid := holderPID(t, c)
	check(t, os.Remove(filepath.Join(dir, socketName)))
	check(t, c.Close())
	c = open(t, Options{Dir: dir})
	if now := holderPID(t, c); now != pid {
		t.Errorf("the holder is %d, not %d", now, pid)
	}
	take(t, c, "state")
}

// TestUnreachable has a holder that nobody can connect to.
func TestUnreachable(t *testing.T) {
	dir := testDir(t)
	fd := must(openDir(dir))(t)
	defer unix.Close(fd)
	held := must(unix.Openat(fd, lockName, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600))(t)
	defer unix.Close(held)
	check(t, unix.Flock(held, unix.LOCK_EX))
	if c, err := Open(t.Context(), Options{Dir: dir, Store: &Store{}}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("opened %v, %v", c, err)
	}
}

// TestGuardBatch has clients that ask again as soon as they are answered.
func TestGuardBatch(t *testing.T) {
	k, g := newKernel(t)
	g.begin(time.Now())
	for u := range uint64(maxBatch + 9) {
		k.request(15, 2*u+2, 1)
	}
	g.read()
	if n := len(g.waiting); n != maxBatch {
		t.Errorf("took %d requests before others are looked after", n)
	}
	g.read()
	if n := len(g.waiting); n != maxBatch+9 {
		t.Errorf("took %d requests", n)
	}
}

// TestStoreReplaced has a mount that has all of the one before but its descriptor.
func TestStoreReplaced(t *testing.T) {
	sd := newSystemd(t)
	store, _ := NewStore(sd.path, nil)
	before, end := device(t)
	check(t, store.put(held{before, []byte("state")}))
	for range 4 {
		sd.read()
	}
	for _, over := range []bool{false, true} {
		store, _ = NewStore(sd.path, sd.passed())
		ours := before
		if over {
			check(t, end.Close())
			ours, _ = device(t)
		}
		check(t, store.put(held{ours, []byte("state")}))
		if over {
			for range 4 {
				sd.read()
			}
		}
		if got := sd.store[storeMount]; len(got) != 1 || !same(t, int(got[0].Fd()), ours) {
			t.Errorf("over %v: store is %v", over, sd.store)
		}
		check(t, store.drop())
		if !over {
			sd.read()
			sd.read()
			check(t, store.put(held{before, []byte("state")}))
			for range 4 {
				sd.read()
			}
		}
	}
}

// TestStorePassed has systemd pass a mount whose guard does not block: it stays so.
func TestStorePassed(t *testing.T) {
	ours, _ := device(t)
	check(t, unix.SetNonblock(ours, true))
	store, _ := NewStore("@nobody", []*os.File{os.NewFile(uintptr(must(dupFd(ours))(t)), storeMount)})
	state := must(os.CreateTemp(t.TempDir(), ""))(t)
	defer state.Close()
	must(state.WriteString("state"))(t)
	store.files[storeState] = []int{must(dupFd(int(state.Fd())))(t)}
	if h := store.held(); len(h) != 1 || string(h[0].state) != "state" {
		t.Errorf("held is %v", h)
	}
	if flags := must(unix.FcntlInt(uintptr(ours), unix.F_GETFL, 0))(t); flags&unix.O_NONBLOCK == 0 {
		t.Error("the descriptor blocks")
	}
	if err := store.drop(); err == nil {
		t.Error("nobody was told")
	}
}

// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"log/slog"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/fs/hold"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestTakenAway has an administrator take the mount away while no daemon is there: that
// containers used it is said, and they get errors instead of waiting for ever.
func TestTakenAway(t *testing.T) {
	h := newHome(t, mustBuild(t, []ztoctest.File{ztoctest.Big(8, "big", 1<<20)}))
	for _, used := range []bool{false, true} {
		d := h.start(t, "never", Fresh)
		dir := filepath.Join(h.mnt(), "0")
		want := mustDump(t, dir)
		m := ""
		if used {
			m = overlay(t, []string{dir, t.TempDir()})
		}
		d.kill(t)
		must(t, unix.Unmount(h.mnt(), unix.MNT_DETACH))
		origin := Fresh
		if used {
			origin = Replaced
		}
		d = h.start(t, "never", origin)
		compare(t, mustDump(t, dir), want, nil)
		if used && exec.Command("cat", m+"/big").Run() == nil {
			t.Error("what was taken away is served")
		}
		d.kill(t)
		h.start(t, "never", Resumed).stop(t) // of which that is the mount
		must(t, hold.Release(h.holder()))
		must(t, unix.Unmount(h.mnt(), unix.MNT_DETACH|unix.MNT_FORCE))
	}
}

// lateHolder holds nothing when it is asked to for the first time.
type lateHolder struct {
	*hold.Client
	asked atomic.Int32
}

func (l *lateHolder) Hold(fd int, state []byte) error {
	if l.asked.Add(1) == 1 {
		return errors.New("nobody is there")
	}
	return l.Client.Hold(fd, state)
}

// TestHeldLate mounts while there is no holder: a stop asks again, and what uses the mount
// keeps it.
func TestHeldLate(t *testing.T) {
	h := newHome(t, mustBuild(t, []ztoctest.File{ztoctest.Big(8, "big", 1<<20)}))
	log := slog.New(slog.DiscardHandler)
	c, err := hold.Open(t.Context(), hold.Options{Dir: h.holder(), Log: log})
	must(t, err)
	f, err := Mount(h.mnt(), Options{StateDir: filepath.Join(string(h), "state"), Log: log, Holder: &lateHolder{Client: c}})
	must(t, err)
	if f.held {
		t.Error("it is held")
	}
	must(t, errors.Join(f.Close(), c.Close()))
	h.start(t, "never", Resumed).stop(t)
}

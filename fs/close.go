// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Close ends the serving. A mount that Options.Holder has stays, with all that uses it,
// for the next process, which answers what is not answered here. Any other is taken away
// as Unmount does.
func (f *FS) Close() error {
	held := f.held
	if !held && f.server.enter() { // the holder may have been away when the mount was made
		held = f.hold()
		f.server.leave()
	}
	if held {
		f.server.leaving.Store(true) // before a read fails because of this
		return f.end(f.server.handOver)
	}
	return f.end(f.unmount)
}

// Unmount ends the serving and takes the mount away; blocked reads end with EINTR. What
// is still in use of the layers fails from then on with ENOTCONN.
func (f *FS) Unmount() error {
	return f.end(func() error {
		if f.opts.Holder != nil { // also where it did not say that it has the mount
			return errors.Join(f.opts.Holder.Drop(), f.unmount())
		}
		return f.unmount()
	})
}

// end ends the serving in the given way, and waits for the requests under way.
func (f *FS) end(how func() error) error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return fmt.Errorf("close %s: %w", f.dir, ErrClosed)
	}
	f.closed = true
	f.begun() // if it has not: the server is to end as it always does
	f.mu.Unlock()
	f.stop()
	idle := make(chan struct{})
	go func() {
		f.wg.Wait()
		close(idle)
	}()
	// What notifies the kernel is best done while requests are answered. It waits
	// for a directory's lock, which a process may hold that waits for something else.
	ended := within(unmountWait, idle)
	err := how()
	if !ended && !within(unmountWait, idle) {
		err = errors.Join(err, fmt.Errorf("close %s: the kernel does not take a notification", f.dir))
	}
	for _, l := range f.table.Load().slots {
		f.free(l)
	}
	return err
}

// stop makes what is blocked give up.
func (f *FS) stop() { f.once.Do(func() { close(f.done) }) }

// unmount takes the mount away and waits for the server. MNT_FORCE ends the
// connection: overlays that still use layers keep the file system alive, but nobody
// will serve it any more.
func (f *FS) unmount() error {
	err := unix.Unmount(f.dir, unix.MNT_FORCE|unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return f.waitUnmounted()
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", f.dir, err)
	}
	<-f.served
	return nil
}

// waitUnmounted waits for the server after somebody else has taken the mount away.
// It ends when the last user of the file system has gone, which may be never.
func (f *FS) waitUnmounted() error {
	if !within(unmountWait, f.served) {
		return fmt.Errorf("unmount %s: it is not mounted any more, but in use", f.dir)
	}
	return nil
}

// within waits at most d for done, and reports whether it is.
func within(d time.Duration, done <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

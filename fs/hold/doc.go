// SPDX-License-Identifier: Apache-2.0

// Package hold keeps the descriptor of a FUSE mount while no daemon serves it.
//
// The descriptor is held by a small process of its own, the holder, and by systemd's
// file descriptor store where there is one. A [Client] is the daemon's side: it starts a
// holder if there is none, gives it the mount, and gets back what the daemon before has
// left. [Main] is the holder's side.
//
//	if hold.Invoked(os.Args) {
//		os.Exit(hold.Main())
//	}
//	...
//	c, err := hold.Open(hold.Options{Dir: dir})
//	fd, err := c.Held(match)            // of the daemon before
//	err = c.Hold(fd, state)             // or from now on
//	err = c.Close()                     // the mount stays
//
// While no daemon is connected the holder is on guard. After a grace it has the kernel
// deliver again what the daemon has not answered, and takes requests. It answers none of
// them, but for those of a process that is being killed, which may end, and, once the
// daemon has been away for Options.Guard, with EIO. When a daemon connects it stops that
// first; the daemon gets again what was not answered.
//
// # Limits
//
// One holder for a directory, one mount for a holder. Requests are delivered again by
// Linux 6.9 and newer; on others nothing should be held, as what a killed daemon was
// serving would wait forever. The holder sees the numbers of threads in the pid namespace
// that the mount was made in: it belongs into the host's, or killed processes have to wait
// for Options.Guard.
//
// A holder that the daemon has started is in the daemon's cgroup. Who ends a daemon by
// its cgroup ends the holder too: the unit needs KillMode=process, or systemd's store has
// the mount alone. A pod's cgroup goes with the pod: a daemon in a DaemonSet needs a holder
// outside, as a service of the host, by the daemon's command "holder" on the same root,
// which the daemon finds and uses; the host's pid namespace; and the mount point on a
// volume that is propagated in both directions. It could still not start after a reboot,
// when containerd needs it to start pods: deploy/helm makes the daemon a service of the host.
//
// # Decisions
//
//   - The holder is this very program, started again as /proc/self/exe: there is nothing
//     else to install, and an upgrade may replace the file meanwhile. Its name in ps is
//     soci-holder. It has a session of its own, no files of its parent's, and / as its
//     directory. The @ before its name keeps it from what systemd kills last at a shutdown
//     and would wait for; it ends when the mount does.
//   - SIGTERM, SIGINT and SIGHUP do nothing to it: whoever sends them means the daemon. One
//     that was started by hand is meant, and ends; a daemon that is there starts another.
//   - One thread of control, that polls: no request of a daemon may meet a guard that is
//     taking requests. The mount's descriptor is polled only while no daemon is there, as
//     the kernel would wake the holder for each request.
//   - The holder never uses a path of the mount, or it could wait for itself.
//   - The socket is found through the descriptor of its directory: a path may be longer
//     than a socket's address. Both sides ask for the other's user.
//   - The directory is watched by inotify, and made again with lock and socket where somebody
//     deletes or moves it: the next daemon would start another holder, and mount anew.
//   - Where that is allowed the holder is exempt from being killed for want of memory. The
//     daemon is what to kill then: it has the memory, and comes back.
//   - Messages have a type and tagged fields, and who does not know a field skips it, so
//     that daemons and holders of different versions get along.
//   - The descriptor is non-blocking while the holder is on guard: a request that was
//     there may be gone when it is read. That is a property of the open file, which the
//     daemon shares, so it is taken back before a daemon gets the descriptor.
//   - systemd does not poll the descriptor (FDPOLL=0): it, too, would be woken for each
//     request.
package hold

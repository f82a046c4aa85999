// SPDX-License-Identifier: Apache-2.0

// Package fs serves layers as read-only directories of one FUSE mount.
//
// [Mount] makes the mount, of which a node needs just one. [FS.Attach] makes a
// layer appear in it as a directory, which overlayfs can then use as a lower
// directory; no mount(2) is involved. The names and attributes of a layer come from
// its TOC, held as a compact tree in memory; the bytes come from a [span.Layer].
//
//	f, err := fs.Mount(dir, fs.Options{StateDir: state, Holder: holder})
//	a, err := f.Attach(name, slot, z, layer) // a.Path is an overlayfs lowerdir
//	err = f.Begin()                          // serves a mount that was taken over
//	...
//	err = f.Detach(name)
//	err = f.Close() // the mount stays, with all that uses it
//
// # Limits
//
// A layer has at most 4 Mi names, of at most 255 bytes each in paths of at most
// 4,096, and a file takes 56 bytes of memory and its name; while the tree is built,
// three times that. All trees stay within Options.MaxTreeMemory. A TOC that is no
// file tree, or that only an extraction could make sense of (a hard link into
// another layer, a file below a symbolic link), is refused with ErrTOC: such a
// layer is to be unpacked. Up to 4,096 requests are served at a time, of which
// 1,024 may wait for layers that are expected or not verified, 512 for one of them: more
// get EIO. A read is of up to 512 KiB, and takes that much memory once its bytes come.
// Mounting needs root, and Linux 5.4 or newer; for the mount to outlive its process, Linux 6.9. Layers that
// are detached and still in use are not served by a process that takes over the mount:
// those who use them get ESTALE then.
//
// # Decisions
//
//   - A node id is the layer's slot and the file's number in its tree; nothing is
//     kept per looked-up file, and FORGET needs no table. Slots come from a counter
//     on disk and are never used twice, as an old file descriptor would silently
//     read another layer's bytes. The numbers follow from the TOC alone (breadth
//     first, by name), so that another process gives the same ones.
//   - Layers do not change, so that the kernel may keep all it has ever been told:
//     entries, missing names, attributes, directories, link targets, pages. The root
//     alone has no timeouts, which makes Attach visible without a notification.
//   - OPEN, OPENDIR and FLUSH are answered with ENOSYS, after which the kernel does
//     without them: a small file costs a single READ, and a killed process does not
//     hang in exit.
//   - The loop that talks to the kernel is ours, so that requests arrive in locked
//     memory (the kernel fails a request that it cannot copy to a killed thread) and
//     bytes that are on disk are spliced: two thirds of the processor time a MB of a
//     pread and a write. READ is served by it; all else passes through go-fuse's
//     ProtocolServer, whose two allocations do not show beside the system calls. So
//     does READ with Options.Debug, which logs there.
//   - There is a goroutine for each request that waits, and always one for the next.
//     A blocked layer keeps none of the others waiting.
//   - The kernel asks to interrupt a read on any signal. A read that ends with EINTR
//     because of a SIGCHLD breaks programs that never saw that on a disk, and in a
//     page fault it is a SIGBUS. So only a reader that is being killed is answered
//     with EINTR (and its fetch cancelled); others wait on, as on a disk.
//     Buffered reads go through readahead, which the kernel never interrupts.
//   - While a layer is incomplete the kernel reads 256 KiB ahead, not 1 MiB: around
//     page faults it reads blindly, and import torch asks for 239 MB then instead of
//     339, in the same time (at 128 KiB 196, at 64 164, in 3,111 and 4,219 READs for 2,487).
//     With all on disk, large reads are 1.6 times as fast at 1 MiB.
//   - Attach holds the layer's data until Detach, and then until the kernel has
//     forgotten the last file of it: overlays still in use go on reading. The count
//     of lookups that needs is one number per layer; where a reply got lost the
//     layer stays until Close, and is never freed too early. The kernel is asked
//     every 10 s to forget what has been closed meanwhile.
//   - mount(2) is called here, and the descriptor is ours: it is never inherited by
//     a child process, and no helper binary is needed. The file system type is the
//     incumbent's, as people look for it.
//   - A process that takes over the mount, with the descriptor that Options.Holder has,
//     finds the kernel in the middle of things. It replays the kernel's first request to
//     go-fuse, held down to what was agreed on then, whatever this version would like. It
//     answers nothing before the layers are back in their slots, then has the kernel deliver
//     again what was taken and not answered. A request is thus served twice at most, and as
//     none changes anything that is once too often for nobody.
//   - A layer that cannot be attached before Begin, as its state is damaged and its registry
//     away, is expected: those who use it wait for Options.Patience, and can be killed, and
//     get EIO after it. ESTALE at once would be the end of programs that have mapped it.
//   - Those who wait for that, or for a verdict, do so for minutes, and one container can ask
//     as often as it likes: beyond a bound they get EIO at once, as otherwise it could take all
//     requests that are served at a time, and stop every layer of the node.
//   - A mount that was taken away while no daemon was there and is still used is let go of:
//     its users get ENOTCONN, and Origin says that there were some.
//   - A panic while a request is served is that request's EIO: it would be delivered to the
//     next process, too, and end that. After 256 of them the process ends all the same.
//   - What the kernel remembers may never change as long as a mount lives: node ids, the
//     cookies of directories (an index plus one), that there is no OPEN, the size of READs.
//     Where it has to, nodeLayout does, and such a mount is not taken over.
//   - Close with a holder answers no READ with an error: it is left to the next process.
//     Loops that wait in the kernel for a request are woken by a signal, with the descriptor
//     non-blocking, as they cannot be by anything that does not take a request.
//   - How often the kernel has looked up the files of a layer is not known after that. Once
//     such a layer is detached the kernel is asked for each node whether it knows it, by a
//     notification that changes nothing.
//   - The mount is neither nosuid nor nodev: a read-only container of a single layer
//     is a bind mount of the layer's directory, and must be what it is on disk. The
//     mount point belongs below a directory that only root may enter.
//   - With Options.GuardPrivileged, setuid and setgid files and those with capabilities look as they
//     are, and nobody gets a byte of them before their layer is verified: who runs one waits. To
//     leave these attributes out and add them later does not work: overlayfs copies a file's mode
//     when it first sees it and goes by that copy for as long as it lives (stat shows the new one,
//     execve goes by the old one, and no notification of ours changes that); and what a container
//     has copied up meanwhile would stay without them.
//   - IDMappedMount is on, so that containers in user namespaces need no copies. It
//     brings default_permissions: the kernel checks the modes, without asking.
//   - Reads are at most 512 KiB: that much fits a pipe.
//   - Of a layer's extended attributes user.* and security.* are served, and access control lists: what
//     containerd's unpack and a disk leave of them. Otherwise a layer could steer the overlayfs above it.
//   - Where the header of a hard link differs from its target's, its owner, mode and
//     time win, and a time before 1970, or after 2262, is 1970: a lazy layer looks as
//     containerd unpacks it. What it would not unpack is refused, but for two things that do
//     no harm: a hard link whose target comes later, and a whiteout beside the file.
//   - A whiteout is a device 0:0 owned by root. Where a layer has both X and .wh.X,
//     the file wins. Doubled slashes and "." in names mean nothing; ".." is refused.
package fs

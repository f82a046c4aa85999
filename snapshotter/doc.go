// SPDX-License-Identifier: Apache-2.0

// Package snapshotter is a containerd snapshotter whose image layers are lazy:
// a layer that has a zTOC in its image's SOCI index is not downloaded and
// unpacked, but appears as a directory of the node's one FUSE mount and is
// fetched as it is read.
//
// The two types to know are Snapshotter, which is containerd's
// snapshots.Snapshotter, and Decision, which says what became of each Prepare:
//
//	s, err := snapshotter.New(ctx, snapshotter.Options{
//		Root:     "/var/lib/soci-snapshotter-grpc",
//		Registry: client,
//	})
//	...
//	_, err = s.Prepare(ctx, "extract-1 "+chainID, parent, snapshots.WithLabels(labels))
//	errdefs.IsAlreadyExists(err) // the layer is there, under the name chainID
//
// Below the root lie snapshotter/metadata.db (and .copy, .damaged and .held) and snapshotter/snapshots/<id>/{fs,work}
// as with containerd's overlay snapshotter, snapshotter/mnt (the mount),
// snapshotter/unpack (layers that are unpacked ahead),
// soci/layers/<key>/{ztoc,layer.json,layer.json.copy} (what a restart needs),
// soci/spans/<key> (what was fetched), soci/profiles (what starts read) and
// soci/condemned (layers not to be served). A lazy snapshot's fs is a symlink into
// the mount. A layer's key is its digest and its zTOC's.
//
// # Limits
//
// A zTOC has at most 256 MiB, a manifest 4 MiB, a config 16 MiB, an image 1,024
// layers. The zTOCs fetched ahead take at most 128 MiB of memory. Layers unpacked
// ahead, three at once, are at most Options.MaxUnpacked bytes of tar, and
// wait ten minutes for the next Prepare of their image, from the end of the one before. A start is recorded for five
// minutes or 4 GiB of reads, and 64 images at once. At most 32 layers are prefetched at
// once; a zTOC that is fetched for a prefetch artifact has at most 32 MiB. containerd shares
// snapshots with the same chain ID among images and, where their parents are
// the same, among namespaces: what a lazy layer holds is then what the index of
// the image that came first says it is. Containers with a user namespace get
// what containerd's overlay snapshotter gives them without the remap-ids
// capability.
//
// # Decisions
//
//   - containerd's overlay snapshotter is decorated, not forked. It does all the
//     bookkeeping of active snapshots, views and mounts. What it would do wrong
//     for a lazy layer is bypassed: its Commit walks the directory to measure it,
//     so lazy and local layers are committed here, in a transaction of our own on
//     the same metadata store; its removals are os.RemoveAll of
//     snapshots/<id>, which does not follow the symlink.
//   - A symlink in the place of snapshots/<id>/fs, not a bind mount: attaching a
//     layer is then free of mount(2), nothing can leak, lowerdir strings stay as
//     short as containerd's own, and overlayfs and bind mounts follow it.
//   - The link takes the directory's place by an exchange of names, so that at
//     every moment there is one of the two. State on disk, link, commit, in that
//     order: a crash leaves a state nobody refers to, which is swept at the next
//     start, or an active snapshot with a link, which becomes a directory again.
//   - Close leaves the mount to Options.FS.Holder. The next New serves it on, once all layers
//     are back in the slots that their states say: who uses a layer knows it by its slot. Up to
//     then nothing here may follow a link into the mount, or it would wait for itself. A layer that
//     is not back by then, as its state is damaged, is looked up at once, for those who use it ask
//     no Mounts. Where the mount is lost, the snapshots of those who used it are logged.
//   - Of a layer's zTOCs the compact one is fetched alone, always: there is nothing to
//     configure. If it cannot be had or used, the 0.9 one of the same index is taken, and the
//     log says why once; what is served is what the image's index says either way. The state on
//     disk does not name the format, the bytes do.
//   - The zTOC's digest is part of a layer's key. A zTOC decides what a layer
//     holds, so images share one only if their indexes agree on it.
//   - A layer without a zTOC in an image with an index is unpacked here. Once
//     Prepare returns mounts for a layer, containerd downloads that layer and all
//     above it, so one small layer would undo the laziness of the others. An
//     image without an index is left to containerd.
//   - Such layers are downloaded and unpacked as soon as the image's first Prepare has come,
//     several at once, in snapshotter/unpack, because containerd asks for one layer
//     after the other; the Prepare of each renames it into place. They are unpacked above nothing. A
//     layer that is other than it would be above its parents, for a directory that it only
//     implies, is unpacked anew where it belongs. No error is kept: what failed ahead, its
//     Prepare does again.
//   - The zTOCs of an image are fetched all at once as soon as its index is there; the
//     Prepare of a layer waits for its own only.
//   - Which layer a Prepare is for is checked against the image's config: the
//     layer's diffIDs must make the chain ID that containerd asks for. That holds
//     wrong labels off and needs no optional label.
//   - A layer that has files in /tmp, say, but no entry for /tmp itself leaves that
//     directory as it is below. A lazy layer cannot know, and would make it 0755 and
//     root's. Where that makes a difference the layer is unpacked instead; to serve
//     it lazily, what it looks like would have to depend on the image.
//   - Every lazy layer is completed in the background, two at a time: one that fetches and one
//     that verifies. Who comes first on the line is for fs/span to say. An error puts a
//     layer off, for 5 s to 5 min, or up to 4 h if only its verification is missing, and never ends its fill.
//   - A complete layer has its diffID and the table of contents of its tar, or is condemned: its reads fail from then on (EIO), it is
//     taken off the mount and off the disk, and that zTOC of that layer is not used again: where the
//     diffID is wrong, by images that say the same one, for it may be the image that lies. Images that
//     differ in the diffID never share a layer; the second one's is unpacked, which tells who is right. Pulled
//     anew, the layer is served with another zTOC or unpacked. What the
//     kernel has in its page cache of it, running containers go on to see. That a
//     layer had its diffID is noted, so that a restart asks nobody.
//   - A complete layer with another diffID is fetched once more, to elsewhere, before it is condemned: disks
//     lie, too. If it is right then, the bytes on disk are replaced under those who read them.
//   - What a container's start reads is recorded per layer and image manifest: from the Prepare on its
//     layers until they are quiet for ten seconds or it is removed, written whenever they pause. A layer shared by images tells
//     what it was asked for since it was mounted, by whomever: too much is better than too little. A start
//     that reads less than half of what is known is added to that, any other replaces it.
//   - What starts read is fetched as soon as the layer is mounted, in their order, and nobody waits
//     for it. This node's own record of the image comes first, then what the index lists, a profile before
//     a prefetch artifact, then a record of another image with the layer. All are hints: none is trusted,
//     and a bad one is logged and does no harm.
//   - Where all repositories of a layer answer a range with the whole blob, that becomes
//     the layer's one download, to a file without a name below soci/downloads, from which
//     every range is served as it comes. It takes the layer's compressed size on disk; a
//     layer that needs more than half of what is free is read by skipping, as before.
//     Nobody's download ends after a minute, a complete one is kept for ten.
//   - A layer that could not be restored from disk under a mount that was taken over is tried
//     from the registry until that works, a minute apart at most; who uses it waits (package fs). It gets
//     the same zTOC, as long as the index lists that: with another one, which may be easier to be had, it would be
//     another layer to who uses it. Only when the registry has said for two minutes that it does not have that zTOC another one is taken,
//     as who uses the layer has lost it then. Its state, whose slot can be had from nowhere else, is kept twice.
//     A layer that is condemned is not tried.
//   - A panic in the background, of what one image or one layer's state on disk leads to, is an
//     error of that one: it would come again at every start. Requests of containerd are
//     contained where they are served, by the daemon.
//   - Wrong bytes are fetched again from where else they can be had: another mirror, or another
//     repository that the layer was pulled from. One answer has many spans, which are found to be wrong one
//     after the other: it counts once.
//   - The metadata database is copied ten seconds after it changed, when the daemon stops, and when it starts with
//     an older copy. At the start its pages are checked to be a tree, as bbolt goes in circles if they are not, and it is
//     read to its end; if it is damaged, or gone, the copy takes its place, the log says so, and no id of a snapshot that has a directory is given out again. Without a good copy it
//     begins anew: containers that run go on, while containerd has to be rid of the images it had. What has ids that the database does not
//     know of is left alone by Cleanup, and every layer on disk is served, as long as there is a file metadata.db.held: the log
//     names it, and an operator removes it when no container uses anything from before. What the database itself does not notice, such as
//     another letter in a label, the copy tells, which has a checksum: where that is of the same transaction, the database is the same,
//     or the copy takes its place. In a database that was written to in the last ten seconds before it is not noticed. What a damaged
//     file was is kept beside it, and what fails for want of memory or at the disk is not damaged: the daemon does not start. Who puts a backup
//     of the database in its place removes the copy, too.
//   - Everything else below the root is checked by digest or CRC32C before use, and what is wrong is fetched again.
//   - Usage of a lazy snapshot is what its layer takes on disk at the moment, counted with
//     one of the snapshots that share it, so that their sum, which is what kubelet is told, is right.
//     The CRI asks once for each image layer, when it is new, and again after its own restart: kubelet's
//     decisions to remove images and evict pods do not depend on that, they look at what the disk has left.
//   - An operation that the full disk refuses is done again after spans were evicted for it: no
//     image could be removed otherwise. A layer that is unpacked in Prepare and does not fit is refused before the disk is full,
//     and nothing is evicted for it.
//   - A layer whose registry gives it as a whole only is not evicted, from when that turns out until a registry gives a
//     part of it; a restart does not forget it. Who else may be, package span says.
//   - With its last snapshot all of a layer goes at once, but for its profile: it is small, their number is
//     bounded, and an image that kubelet removes is likely to be pulled again, which is when it is of use.
//   - A wrong modification time alone condemns a layer like any other lie of its TOC: programs decide
//     by it what to compile anew, and zTOC 0.9, which cannot tell all times, is held only to what it can tell.
//   - What Policy refuses is not served, and pulled whole like an image without an index, with the reason
//     in the log and the metrics: a setting is to make no pull fail. A layer that is too large is left to
//     containerd, which has to answer for the disk; one with too many files is unpacked here. A layer that is
//     served already, or restored, is not looked at again.
//   - Policy.RefuseDevices fails a Prepare, where all else that a policy rules out is left to containerd: that would
//     unpack the layer and make the device. A device in a layer is of use to nobody but who escapes from
//     the container's device rules, yet the incumbent serves it, and so it is served unless that is asked for.
//   - With Policy.GuardPrivileged nobody reads from a setuid file, or one with capabilities, before its layer
//     is verified: until then its bytes and its bits are only what whoever made the index says. Who reads one
//     makes its layer the next, beside those that are being fetched, two such at a time, and it does not make way for
//     readers. Where the disk has no room the layer is fetched once through memory, for its diffID and its TOC, and not kept:
//     one download more is better than ten minutes and then EIO, and the verdict holds for what is fetched
//     later, as each span has its digest. Where verifying fails the read fails, until it succeeds.
//   - No transaction is held across network, unpacking or mounting.
//   - Lookups are kept for five minutes, or as long as the image is being pulled, the answer that there is no index for ten
//     seconds, errors never.
//   - A name is not reused for another parent: where the target's chain ID is
//     taken by a snapshot with another parent, which containerd would not accept
//     as the target, the new one gets a name of its own.
package snapshotter

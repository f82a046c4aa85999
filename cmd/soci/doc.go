// SPDX-License-Identifier: Apache-2.0

// Command soci indexes container images for lazy loading: it makes zTOCs and
// SOCI indexes, pushes them beside the image, and pulls images lazily.
//
//	soci create IMAGE                    make a SOCI index (v1) of an image in containerd
//	soci push IMAGE                      push it to the image's registry
//	soci convert SRC DEST                make a SOCI-enabled image (index v2)
//	soci convert --standalone SRC DEST   the same from one OCI layout to another, without containerd
//	soci rebuild-db                      make artifacts.db agree with the content store
//	soci index list|ls, info, remove|rm
//	soci ztoc list|ls, info, get-file
//	soci ztoc build LAYER -o ZTOC        make the zTOC of one layer file, without containerd
//	soci ztoc verify ZTOC|IMAGE          check zTOCs against their layers
//	soci prefetch list|ls, info
//	soci prefetch record IMAGE [DEST]    attach what starts of an image read on this node to its index
//	soci image rpull IMAGE               pull an image into containerd, its layers lazily
//	soci doctor                          say what is wrong with lazy loading on this node
//
// Flags, output and artifacts.db are those of the incumbent, so that scripts
// and nerdctl work as before. Lines for people and machines alike go to standard
// output; errors are one line on standard error, with exit status 1.
//
// The two types to know are env, what a command is run with, and action, which
// makes a command of a function of it. There is one file per command:
//
//	func indexInfoCommand() *cli.Command {
//		return &cli.Command{Name: "info", Action: action(indexInfo)}
//	}
//
//	func indexInfo(ctx context.Context, e *env, cmd *cli.Command) error
//
// # Limits
//
//   - An archive for --standalone is an uncompressed tar.
//   - ztoc get-file holds one span at a time in memory.
//   - A list of prefetch files has at most 16 MiB.
//
// # Decisions
//
//   - A wrong flag is one line, not the usage text: the incumbent prints both, and the
//     error scrolls away.
//   - The root directory is made by the commands that need it, when they need it.
//   - An index label of an image has the name that the incumbent gives it and,
//     beside it, one with the platform: the former names the last index only.
//   - A failing label is an error. Without it the index is soon collected.
//   - Image names are taken as containerd has them; if there is none of that
//     name, the full name that docker makes of it is tried.
//   - push checks that the registry has the image manifest before it pushes
//     anything. --user is sent to the registry of the image only.
//   - convert with the soci content store pushes to containerd as well: index
//     and zTOCs are part of the image now.
//   - convert --standalone does not replace a directory that is not an OCI layout.
//   - ztoc list --image-ref reads indexes from the store of --content-store.
//   - ztoc info, get-file and verify take files as well, so that what ztoc build makes
//     can be looked at. They tell the format from the content.
//   - ztoc list lists zTOCs 0.9 alone unless asked for the others: scripts expect one a layer.
//   - ztoc build writes all of its outputs or none.
//   - ztoc verify goes on behind a bad zTOC, and prints what is wrong to standard output,
//     where the good ones are.
//   - prefetch record reads what the snapshotter has learnt from its root directory, which needs no
//     running snapshotter; both have the same default for it. It changes an index as little as can be,
//     and needs none of the image's layers.
//   - get-file follows symbolic links from where they are, and prefers the last of
//     several entries of a name, as tar does. The file has the permissions of the entry.
//   - Progress bars go to standard error, and only if that is a terminal:
//     nerdctl reads both outputs line by line.
//   - --debug prints to standard error: standard output is for what was pushed.
//   - A line that cannot be written to standard output is an error in the end.
//   - ztoc list --image-ref leaves out indexes that containerd has collected since.
//   - An interrupt ends the command by its context: ingests are aborted, temporary files
//     removed. A second interrupt kills.
package main

// SPDX-License-Identifier: Apache-2.0

// Package store holds the places where the soci command keeps content:
// containerd's content store, an OCI layout, and the staging area of a
// conversion from one OCI layout to another.
//
// The two types to know are [Containerd] and [Layout], the two values of
// --content-store. Both fetch and push by descriptor, and both answer missing
// content with an error that matches errdefs.ErrNotFound.
//
//	st := store.NewContainerd(client.ContentStore())
//	err := st.Push(ctx, desc, bytes.NewReader(index))
//
// [OpenSource] and [NewStage] serve `soci convert --standalone`: a Source
// reads an OCI layout where it lies, directory or tar, and a Stage keeps what
// is new beside it until all of it is written out at once.
//
// # Limits
//
//   - A manifest or index is at most [MaxManifestSize] bytes.
//   - An archive has at most 1,048,576 members; it is an uncompressed tar.
//   - Digests are sha256.
//
// # Decisions
//
//   - GC labels go in with the commit of a manifest, so that there is no
//     moment in which its children are unprotected. They are read from the
//     manifest itself: whoever pushes cannot forget them.
//   - An ingest that fails is aborted, also when its context was cancelled:
//     nothing half-written stays behind. Its reference is made of the digest,
//     so what a killed process left is taken up by the next one.
//   - A layout is written by ourselves, not by oras: an oras push that fails leaves
//     its temporary file behind, and two processes lose each other's entries of index.json or read
//     it half-written. It is changed under a lock of the directory and replaced as a whole.
//   - An archive is not unpacked: the offsets of its members are noted and
//     blobs are read where they are.
//   - An output that is a device or a pipe is written to, not replaced: as root, a
//     rename would make a file of /dev/null.
//   - The result of a conversion is complete before it gets its name. What was
//     there under that name is removed last, and only if it is an OCI layout.
package store

import (
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

// MaxManifestSize bounds manifests and indexes, in bytes.
const MaxManifestSize = 8 << 20

// checkDigest refuses everything but sha256: the digest becomes a file name.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", d, err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %q: %w", d, digest.ErrDigestUnsupported)
	}
	return nil
}

// blobReader reads a blob from one place and closes another.
type blobReader struct {
	io.Reader
	io.Closer
}

// readerFunc is a reader made of its one method.
type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// during returns a reader of r that fails once ctx is done.
func during(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(p)
	})
}

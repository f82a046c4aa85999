// SPDX-License-Identifier: Apache-2.0

// Package integration tests the whole path with real parts: containerd 1.6
// from Debian and 2.x built from source, runc, a registry without referrers
// (Debian's docker-registry) and one with them, our two binaries, and images with everything a layer can hold.
//
//	go test ./benchmark/integration
//
// Everything runs in the sandbox package's namespaces. The binaries are built by the tests themselves.
//
// # Limits
//
// Root, /dev/fuse, overlayfs, containerd, runc and docker-registry; a test whose part is missing is skipped and says which.
//
// # Decisions
//
//   - What is right is decided by containerd's own overlayfs snapshotter: a lazy image must look exactly as the unpacked one does.
//   - That an image was pulled lazily is never taken for granted: metrics, logs and the registry's counters must say so.
package integration

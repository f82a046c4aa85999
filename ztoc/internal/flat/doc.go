// SPDX-License-Identifier: Apache-2.0

// Package flat is the code that flatc makes of ztoc.fbs, for package ztoc only.
//
// [Ztoc] is the root table of a zTOC, [TarZinfo] that of an uncompressed layer's
// checkpoints:
//
//	root := flat.GetRootAsZtoc(p, 0)
//
// # Limits
//
// The accessors follow offsets without checking them, and panic on hostile input.
//
// # Decisions
//
//   - "go generate ./ztoc" writes the package anew. It takes flatc, which Debian has
//     as flatbuffers-compiler; version 2.0.8 wrote what is committed.
package flat

// SPDX-License-Identifier: Apache-2.0

// Package inflate decodes raw DEFLATE streams (RFC 1951) from whole buffers: from
// the start, or from anywhere inside, as far as wanted, and on from there later.
//
// A [Decoder] inflates straight into the caller's buffer, where what it wrote before
// serves as the history; there is no window of its own and nothing is copied twice.
// Its [Decoder.Decode] stops at each end of a block, where [Decoder.Bits] tells the
// position to the bit, and can note which matches it met:
//
//	var d inflate.Decoder
//	d.Reset(0)
//	for stop != inflate.StreamEnd {
//		pos, in, stop, err = d.Decode(dst, pos, want, src, in, true)
//		...
//	}
package inflate

// WindowSize is the history a match may refer back to, in bytes.
const WindowSize = 32 << 10

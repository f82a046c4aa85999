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
//
// [DecodePair] does two streams at once on one core.
//
// # Limits
//
// A Decoder holds some 12 KiB, never reads behind the input or writes behind the
// output it is given, and takes time in proportion to them, whatever the input is.
// It needs the last 32 KiB of output in front of what it writes.
//
// On amd64 with BMI2 assembly does the work (kernel_amd64.s, pair_amd64.s). The tag
// noasm leaves it out, as other processors do, and nounsafe also the accesses
// without bounds checks: that build is the oracle of the others in the tests.
//
// # Decisions
//
// Measured on Zen 5 with layers of Debian and python3-torch, where a mispredicted
// branch costs some 8 ns, as much as four table look-ups. They have 2.3 and 1.7 literals for
// a match; other layers 1 (node modules) to 10 (jars, in long runs).
//
//   - Literals take no branch. Whether one or a match comes next cannot be predicted,
//     so two steps run that do nothing where there is no literal: entries of anything
//     else have no bits to drop where the shift looks (5-7% in portable code). In the
//     assembly for one stream branches are as good, for two they are not.
//   - Look-ups come before refills, which run in their shadow: a refill in the way of
//     the next look-up costs up to 11%.
//   - In assembly the bit buffer keeps two used bits at its low end, so that the index of
//     a look-up needs no scaling, a cycle each: 9%.
//   - Two streams in one loop share a core better than one after the other, 1.3 times
//     their speed. What a symbol is takes no branch there: a literal is a match of one byte
//     with a table of all bytes, whose distance has no bits. With a branch for it, guessed
//     wrong three times in ten matches for both streams, it was 1.16. Two steps for literals
//     in front are best: one is 7% worse, three 15%. A branch that is taken from the sixth
//     literal of a row on costs 1%, and gains 20% where data hardly compresses.
//   - Nothing was gained there by counting steps in place of comparing with four limits,
//     by distances below 16 without a branch, nor by prefetching what is written to. A
//     second refill in each step cost 12%, masking entries of literals 5-7%.
//   - DecodePair returns when one of two has stopped: pairs that wait for each other lose
//     1-2%, as the longer one ends alone.
//   - In that loop 32 bytes are copied without asking for the length, 4% better than 64.
//   - For one stream 64 bytes are, and distances below 16 take one shuffle: 1-2%.
//   - Tables of 10 or 12 bits for literals and lengths and of 9 or 10 for distances were no
//     better than 11 and 8. Pointers in place of indexes, GOAMD64=v3, three or four
//     literal steps, moves of 16 bytes in place of 8, and the two used bits gained nothing in
//     portable code; nor did literals as matches in the assembly for one stream.
//   - Headers and tables cost 6% of the time. They cost 9% with a branch for symbols without
//     a code, one sequence of counters, and codes that count with their bits reversed.
//   - References before the start of the output are an error: the history is where the
//     output is, and a caller that has it elsewhere copies it there once.
package inflate

// WindowSize is the history a match may refer back to, in bytes.
const WindowSize = 32 << 10

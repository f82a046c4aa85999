// SPDX-License-Identifier: Apache-2.0

package ztoc

// The limits of Build, Marshal and Unmarshal. Layers and zTOCs beyond them are
// answered with ErrLimit or ErrFormat.
const (
	MaxSize      = 1 << 30   // bytes of a marshalled zTOC
	MaxLayerSize = 1 << 43   // compressed bytes of a layer
	MaxSpan      = 1 << 30   // uncompressed, and compressed, bytes of one span that Unmarshal accepts
	MaxEntries   = 4 << 20   // files of a layer
	MaxName      = 64 << 10  // bytes of a name, link name, user or group name, PAX key
	MaxPAXValue  = 1 << 20   // bytes of the value of a PAX record
	MaxTOCSize   = 512 << 20 // bytes of all names and PAX records of a layer, plus 64 an entry
)

const (
	checkpointSize = 8 + 8 + 1 + windowSize // on the wire
	digestSize     = 4 + 4 + 7 + 64 + 1     // on the wire: offset, length, "sha256:", hex, NUL
	maxGzipSpans   = MaxSize / (checkpointSize + digestSize)
	maxPlainSpans  = MaxSize / digestSize
	entrySize      = 64   // no more than the wire bytes of any entry, its strings' bytes aside
	xattrSize      = 26   // likewise of a PAX record: an offset, a table of two, and two strings' lengths and NULs
	maxRatio       = 1032 // output bytes for an input byte: a 258-byte match takes 2 bits
	tarBlock       = 512
)

// maxInflated is the most that n bytes of deflate can become. A span shares bits
// with its neighbours, and the code of its first match can begin before it: one
// input byte of slack covers both.
func maxInflated(n int64) int64 { return (n + 1) * maxRatio }

// SPDX-License-Identifier: Apache-2.0

// Package ztoc turns one layer into a zTOC and one span of it back into bytes.
//
// A zTOC is the table of contents of a layer's tar together with the checkpoints
// from which pieces of the layer, its spans, can be inflated without the bytes
// before them. [Build] makes a [ZTOC] in one pass over a layer; Marshal and
// [Unmarshal] put it on the wire, as zTOC 0.9 of FORMAT.md. [NewSurvey] makes that
// pass too, for layers of any size in little memory, and digests the layer besides;
// it can write a second form, the compact zTOC of FORMAT.md, which [OpenCompact]
// opens in place.
// [ZInfo] then finds, verifies and decodes spans:
//
//	z, err := ztoc.Unmarshal(p)
//	first, end := z.ZInfo.SpansOf(ztoc.Range{Off: e.Offset, Len: e.Size}) // e of z.TOC
//	for id := first; id < end; id++ {
//		src := ... // the layer's bytes z.ZInfo.Spans[id].In
//		err := z.ZInfo.Verify(id, src)
//		dst := make([]byte, z.ZInfo.Spans[id].Out.Len)
//		err = z.ZInfo.Decode(dst, id, src)
//	}
//
// Layers, zTOCs and spans may come from anyone. Unmarshal validates all it returns,
// so that offsets and lengths of a ZTOC can be used without further checks; file
// names are valid as names but not as paths, and links point where they like.
//
// # Limits
//
// Gzip and uncompressed layers; zstd is ErrUnsupported. So are PAX global headers,
// sparse and contiguous files, and owners beyond 32 bits: a zTOC cannot describe
// them. Names have no NUL and at most [MaxName] bytes, PAX values [MaxPAXValue]; a
// layer has at most [MaxEntries] files with [MaxTOCSize] bytes of names and
// records, and [MaxLayerSize] compressed bytes; a zTOC at most [MaxSize] bytes,
// which is some 32,000 spans of a gzip layer; a span that Unmarshal accepts at
// most [MaxSpan] bytes. No deflate data expand more than 1,032 times. A compact zTOC
// has as many names and bytes of them, unpacks to at most 4 MiB and 1,024 bytes for
// each of its own, and to no more than [MaxTOCSize]; its spans are of
// [MinCompactSpan] bytes and more.
//
// # Decisions
//
//   - The bytes written are the incumbent's, checkpoint placement and all: zTOCs
//     have the same digests, whichever tool made them. Two faults are not copied:
//     header-only entries have size 0 (the incumbent takes their header's word and
//     then rejects its own zTOC), and sparse files are refused (it serves other
//     bytes than the file's).
//   - Times are in UTC. The incumbent writes its host's zone; such zTOCs are read,
//     and written back unchanged.
//   - A pass runs in four stages at once: read, inflate, walk, digest. What goes
//     between them are chunks and pieces of 256 KiB, made once and used
//     again, each in one stage's hands at a time; nothing grows with the layer. A
//     fault travels with the bytes before it: the first in the layer is reported.
//   - A third of a pass is SHA-256. There are four streams of it: the uncompressed
//     bytes, and the compressed ones whole and by spans of both kinds. Two at a time
//     go through one core, always those that have the most to do. The digests of
//     one byte cannot share work: spans begin anywhere, so their blocks of 64 bytes
//     do not coincide.
//   - The inflater notes matches right in the piece, and a spool grows by blocks:
//     what grew by copying was a twentieth of a pass. A lazier garbage collector did not help.
//   - What a pass needs some MiB of, in sizes that are known, lies in huge pages of its
//     own: 8,000 page faults for a layer of 70,000 files were a twentieth of the time.
//     With them, twice as many pieces cost little, and keep two processors busy. Twice as
//     large ones took a twenty-fifth more: new memory costs more than what is done in it.
//   - The zones in which compact checkpoints are looked for are a sixth of a span. With
//     a quarter it took 2.5% more time, and the zTOC was an eleventh smaller; with an
//     eighth another 0.5% less, and it was a sixteenth larger.
//   - Spans are digested while the layer streams by, before it is known where the
//     span ends: the bytes since the last possible checkpoint are kept back.
//   - A Survey keeps entries as differences, some 30 bytes each, in blocks that can
//     be read alone, and windows as they are: beyond 8 MiB in a temporary file that
//     has no name. What it holds per file in memory is less than a byte.
//   - FlatBuffers are made from the back, so a zTOC is measured first, which leaves
//     4 bytes an entry, and then made from the front, part by part. What an entry
//     measures follows from the lengths of its strings and the form of its table.
//   - A plain ustar header is read here, in a fifth of the time that archive/tar
//     takes, and so are the usual PAX records; all others are archive/tar's, without
//     surprises. That is a quarter of the time of a layer of a million small files.
//     Reading GNU's long names here saved nothing that could be measured. Tests compare
//     the two. A skip of file data does not copy them: it seeks in the stream.
//   - A span that Unmarshal would not take is refused when it is built.
//   - Behind the tar's end-of-archive marker anything may follow within the gzip.
//     It is inflated and checked, but belongs to no span's output.
//   - A span decodes to exactly its declared bytes or not at all. The input is cut
//     at the bit where the next span begins, so no byte can come from elsewhere.
//   - An entry or span is charged for the bytes it takes on the wire, and the sum
//     must fit in what was read: a FlatBuffers tree whose parts are shared, which
//     no writer makes, could otherwise unpack to any size.
//   - A compact zTOC keeps of a window what the span behind it refers to, and its spans
//     begin where that is least. Windows are packed in groups that are small against
//     half a span, so that a random read is not about windows.
//   - Its table is columns of which any element is at hand, a tree of names in which a
//     path is found by bisection, and sums over at most 64 elements. Opening it is
//     decompressing it. It is validated where it is looked at: nothing in it leads out
//     of it, in circles, or to more work than a block and a name are; Check looks at all.
//   - Unmarshal recovers from out-of-bounds panics of the generated accessors alone;
//     what they return is bounded before it is used.
package ztoc

//go:generate flatc --go -o internal ztoc.fbs

import (
	"crypto/sha256"
	"time"
)

// Compression is the compression of a layer, with the values of the wire
// format's CompressionAlgorithm enum.
type Compression int8

// The compressions a zTOC can describe.
const (
	Gzip         Compression = 1
	Uncompressed Compression = 2
)

// Range is the half-open byte range [Off, Off+Len).
type Range struct {
	Off, Len int64
}

// End is the offset just behind the range.
func (r Range) End() int64 { return r.Off + r.Len }

// EntryType is the type of a TOC entry.
type EntryType uint8

// The entry types of zTOC 0.9.
const (
	TypeReg EntryType = iota + 1
	TypeDir
	TypeSymlink
	TypeHardlink
	TypeChar
	TypeBlock
	TypeFifo
)

// Record is one PAX record of an entry.
type Record struct {
	Key, Value string
}

// Entry is one file of the layer's tar, in tar order.
type Entry struct {
	Name     string // raw tar name: directories keep their trailing slash
	Linkname string
	Type     EntryType
	Offset   int64 // uncompressed offset of the first data byte
	Size     int64 // bytes of data; 0 unless TypeReg
	Mode     int64 // raw tar mode
	UID, GID uint32
	Uname    string
	Gname    string
	ModTime  time.Time // UTC, unless read from a zTOC of an indexer in another zone
	Devmajor int64
	Devminor int64
	PAX      []Record // all PAX records, sorted by key; nil for most files
}

// Span is an independently decodable piece of a layer.
type Span struct {
	In     Range             // compressed bytes, the shared first byte included when Bits != 0
	Out    Range             // uncompressed bytes; empty for padding behind the tar, and may then lie beyond UncompressedSize
	Sum    [sha256.Size]byte // SHA-256 of exactly the bytes of In
	Bits   uint8             // 0-7: high-order bits of In's first byte that belong to the span
	Window []byte            // the 32 KiB of history before Out.Off; nil means all zeros
}

// ZInfo is what is needed to decode spans: the layer's sizes and spans, without its files.
type ZInfo struct {
	Compression      Compression
	SpanSize         int64 // target uncompressed size of a span; 0 means one span per deflate block
	CompressedSize   int64
	UncompressedSize int64  // offset just behind the tar's end-of-archive marker
	Spans            []Span // in order; the non-empty Outs cover [0, UncompressedSize) without gap

	legacy  bool       // read from a v1 checkpoint blob, and written as one
	windows *windowSet // of a compact zTOC
}

// ZTOC is the table of contents and the zInfo of one layer.
type ZTOC struct {
	Version   string
	BuildTool string
	TOC       []Entry
	ZInfo     *ZInfo
}

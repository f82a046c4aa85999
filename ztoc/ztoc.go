// SPDX-License-Identifier: Apache-2.0

// Package ztoc turns one layer into a zTOC and one span of it back into bytes.
package ztoc

import (
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
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
	Size     int64 // bytes, as the tar header gives it
	Mode     int64 // raw tar mode
	UID, GID uint32
	Uname    string
	Gname    string
	ModTime  time.Time // UTC
	Devmajor int64
	Devminor int64
	PAX      []Record // all PAX records, sorted by key; nil for most files
}

// Span is an independently decodable piece of a layer.
type Span struct {
	In     Range         // compressed bytes, the shared first byte included when Bits != 0
	Out    Range         // uncompressed bytes
	Digest digest.Digest // of exactly the bytes of In
	Bits   uint8         // 0-7: high-order bits of In's first byte that belong to the span
	Window []byte        // the 32 KiB of history before Out.Off; nil means all zeros
}

// ZInfo is what is needed to decode spans: the layer's sizes and spans, without its files.
type ZInfo struct {
	Compression      Compression
	SpanSize         int64 // target uncompressed size of a span; 0 means one span per deflate block
	CompressedSize   int64
	UncompressedSize int64 // offset just behind the tar's end-of-archive marker
	Spans            []Span

	legacy bool         // read from a v1 checkpoint blob, and written as one
	pool   inflate.Pool // of Decode
}

// ZTOC is the table of contents and the zInfo of one layer.
type ZTOC struct {
	Version   string
	BuildTool string
	TOC       []Entry
	ZInfo     *ZInfo
}

// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	flatbuffers "github.com/google/flatbuffers/go"

	"github.com/seekoci/seekoci/ztoc/internal/flat"
	"github.com/seekoci/seekoci/ztoc/internal/klauspost"
)

// Checkpoint blobs, see FORMAT.md.
const (
	checkpointHeader = 4 + 8 // count, span size
	legacyFirstIn    = 10    // of the first checkpoint of a v1 blob, which is not stored
	tarZinfoVersion  = 2
)

// typeNames are the wire names of the entry types.
var typeNames = [...]string{
	TypeReg: "reg", TypeDir: "dir", TypeSymlink: "symlink", TypeHardlink: "hardlink",
	TypeChar: "char", TypeBlock: "block", TypeFifo: "fifo",
}

// String returns the name of the type in the wire format: reg, dir, symlink,
// hardlink, char, block or fifo.
func (t EntryType) String() string {
	if t < TypeReg || t > TypeFifo {
		return fmt.Sprintf("EntryType(%d)", uint8(t))
	}
	return typeNames[t]
}

// String returns "gzip" or "uncompressed".
func (c Compression) String() string {
	switch c {
	case Gzip:
		return "gzip"
	case Uncompressed:
		return "uncompressed"
	}
	return fmt.Sprintf("Compression(%d)", int8(c))
}

// Marshal encodes z as zTOC 0.9, byte for byte as the incumbent does. A zTOC of
// more than MaxSize bytes is ErrLimit.
func (z *ZTOC) Marshal() ([]byte, error) {
	size, err := z.marshalSize()
	if err != nil {
		return nil, fmt.Errorf("marshal zTOC: %w", err)
	}
	checkpoints, err := z.ZInfo.marshalCheckpoints()
	if err != nil {
		return nil, fmt.Errorf("marshal zTOC: %w", err)
	}
	p := z.encode(flatbuffers.NewBuilder(size), checkpoints)
	if len(p) > MaxSize {
		return nil, fmt.Errorf("marshal zTOC: %w: %d bytes", ErrLimit, len(p))
	}
	return p, nil
}

// encode writes z with b.
func (z *ZTOC) encode(b *flatbuffers.Builder, checkpoints []byte) []byte {
	// FlatBuffers grow from the back: what is created first comes last. The order
	// here is the incumbent's and therefore part of the format.
	ver := b.CreateString(z.Version)
	tool := b.CreateString(z.BuildTool)
	toc := marshalTOC(b, z.TOC)
	info := z.ZInfo.marshal(b, checkpoints)
	flat.ZtocStart(b)
	flat.ZtocAddVersion(b, ver)
	flat.ZtocAddBuildToolIdentifier(b, tool)
	flat.ZtocAddToc(b, toc)
	flat.ZtocAddCompressedArchiveSize(b, z.ZInfo.CompressedSize)
	flat.ZtocAddUncompressedArchiveSize(b, z.ZInfo.UncompressedSize)
	flat.ZtocAddCompressionInfo(b, info)
	b.Finish(flat.ZtocEnd(b))
	return b.FinishedBytes()
}

// marshalSize checks what the builder cannot encode and returns an upper bound of
// the encoded size.
func (z *ZTOC) marshalSize() (int, error) {
	if z.ZInfo == nil || len(z.ZInfo.Spans) == 0 {
		return 0, badf("zTOC", "no spans")
	}
	const (
		fixed     = 8 << 10         // root, vtables (each form of entry has one), alignment
		perEntry  = 200 - entrySize // table and vectors; lengths, NULs and padding of its strings; type and time
		perRecord = 32 - xattrSize  // likewise
	)
	n := int64(fixed + len(z.Version) + len(z.BuildTool))
	for i := range z.TOC {
		e := &z.TOC[i]
		if err := e.check(); err != nil {
			return 0, fmt.Errorf("entry %d, %q: %w", i, clip(e.Name), err)
		}
		n += perEntry + e.wireSize() + int64(len(e.PAX))*perRecord
	}
	perSpan := int64(digestSize)
	if z.ZInfo.Compression == Gzip {
		perSpan += checkpointSize
	}
	if n += int64(len(z.ZInfo.Spans)) * perSpan; n > 2*MaxSize-1 {
		return 0, fmt.Errorf("%w: %d bytes", ErrLimit, n)
	}
	return int(n), nil
}

func marshalTOC(b *flatbuffers.Builder, toc []Entry) flatbuffers.UOffsetT {
	entries := make([]flatbuffers.UOffsetT, len(toc))
	for i := len(toc) - 1; i >= 0; i-- {
		entries[i] = marshalEntry(b, &toc[i])
	}
	flat.TOCStartMetadataVector(b, len(entries))
	metadata := endVector(b, entries)
	flat.TOCStart(b)
	flat.TOCAddMetadata(b, metadata)
	return flat.TOCEnd(b)
}

func marshalEntry(b *flatbuffers.Builder, e *Entry) flatbuffers.UOffsetT {
	name := b.CreateString(e.Name)
	typ := b.CreateString(e.Type.String())
	linkname := b.CreateString(e.Linkname)
	uname := b.CreateString(e.Uname)
	gname := b.CreateString(e.Gname)
	modTime := b.CreateString(marshalTime(e.ModTime))
	records := make([]flatbuffers.UOffsetT, len(e.PAX))
	for i := range e.PAX {
		key := b.CreateString(e.PAX[i].Key)
		value := b.CreateString(e.PAX[i].Value)
		flat.XattrStart(b)
		flat.XattrAddKey(b, key)
		flat.XattrAddValue(b, value)
		records[i] = flat.XattrEnd(b)
	}
	flat.FileMetadataStartXattrsVector(b, len(records))
	xattrs := endVector(b, records)
	flat.FileMetadataStart(b)
	flat.FileMetadataAddName(b, name)
	flat.FileMetadataAddType(b, typ)
	flat.FileMetadataAddUncompressedOffset(b, e.Offset)
	flat.FileMetadataAddUncompressedSize(b, e.Size)
	flat.FileMetadataAddLinkname(b, linkname)
	flat.FileMetadataAddMode(b, e.Mode)
	flat.FileMetadataAddUid(b, e.UID)
	flat.FileMetadataAddGid(b, e.GID)
	flat.FileMetadataAddUname(b, uname)
	flat.FileMetadataAddGname(b, gname)
	flat.FileMetadataAddModTime(b, modTime)
	flat.FileMetadataAddDevmajor(b, e.Devmajor)
	flat.FileMetadataAddDevminor(b, e.Devminor)
	flat.FileMetadataAddXattrs(b, xattrs)
	return flat.FileMetadataEnd(b)
}

// endVector fills the offset vector that has just been started.
func endVector(b *flatbuffers.Builder, offs []flatbuffers.UOffsetT) flatbuffers.UOffsetT {
	for i := len(offs) - 1; i >= 0; i-- {
		b.PrependUOffsetT(offs[i])
	}
	return b.EndVector(len(offs))
}

func (z *ZInfo) marshal(b *flatbuffers.Builder, checkpoints []byte) flatbuffers.UOffsetT {
	blob := b.CreateByteVector(checkpoints)
	digests := make([]flatbuffers.UOffsetT, len(z.Spans))
	for i := range z.Spans {
		text := hex.AppendEncode(append(make([]byte, 0, digestSize), "sha256:"...), z.Spans[i].Sum[:])
		digests[i] = b.CreateByteString(text)
	}
	flat.CompressionInfoStartSpanDigestsVector(b, len(digests))
	spanDigests := endVector(b, digests)
	flat.CompressionInfoStart(b)
	flat.CompressionInfoAddMaxSpanId(b, int32(len(z.Spans)-1))
	flat.CompressionInfoAddSpanDigests(b, spanDigests)
	flat.CompressionInfoAddCheckpoints(b, blob)
	flat.CompressionInfoAddCompressionAlgorithm(b, flat.CompressionAlgorithm(z.Compression))
	return flat.CompressionInfoEnd(b)
}

// marshalCheckpoints encodes the checkpoints of a gzip layer, or the span layout
// of an uncompressed one.
func (z *ZInfo) marshalCheckpoints() ([]byte, error) {
	switch z.Compression {
	case Uncompressed:
		b := flatbuffers.NewBuilder(64)
		flat.TarZinfoStart(b)
		flat.TarZinfoAddVersion(b, tarZinfoVersion)
		flat.TarZinfoAddSpanSize(b, z.SpanSize)
		flat.TarZinfoAddSize(b, z.CompressedSize)
		b.Finish(flat.TarZinfoEnd(b))
		return b.FinishedBytes(), nil
	case Gzip:
	default:
		return nil, fmt.Errorf("%v: %w", z.Compression, ErrUnsupported)
	}
	spans := z.Spans
	if z.legacy {
		spans = spans[1:]
	}
	p := make([]byte, 0, checkpointHeader+len(spans)*checkpointSize)
	p = binary.LittleEndian.AppendUint32(p, uint32(len(z.Spans)))
	p = binary.LittleEndian.AppendUint64(p, uint64(z.SpanSize))
	var zeros [klauspost.WindowSize]byte
	for i := range spans {
		s := &spans[i]
		in, window := s.In.Off, s.Window
		if s.Bits != 0 {
			in++ // the wire has the first whole byte
		}
		if window == nil {
			window = zeros[:]
		}
		if len(window) != klauspost.WindowSize {
			return nil, badf("span", "window of %d bytes", len(window))
		}
		p = binary.LittleEndian.AppendUint64(p, uint64(in))
		p = binary.LittleEndian.AppendUint64(p, uint64(s.Out.Off))
		p = append(append(p, s.Bits), window...)
	}
	return p, nil
}

// Times that have no wire form, those beyond year 9999, are empty strings there.
// They read back as the first second of year 10000, which has none either.
const noTime = 253402300800

// marshalTime returns the wire form of t.
func marshalTime(t time.Time) string {
	p, err := t.MarshalText()
	if err != nil {
		return ""
	}
	return string(p)
}

// unmarshalTime returns the time of wire form p.
func unmarshalTime(p []byte) (time.Time, error) {
	if len(p) == 0 {
		return time.Unix(noTime, 0).UTC(), nil
	}
	var t time.Time
	err := t.UnmarshalText(p)
	return t, err
}

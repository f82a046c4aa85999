// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	flatbuffers "github.com/google/flatbuffers/go"

	"github.com/seekoci/seekoci/ztoc/internal/flat"
)

// encode makes a zTOC with the builder of the FlatBuffers library, as the incumbent
// does, and without any check: it is what Marshal is held to.
func encode(z *ZTOC, checkpoints []byte) []byte {
	b := flatbuffers.NewBuilder(0)
	// FlatBuffers grow from the back: what is created first comes last. The order
	// here is the incumbent's and therefore part of the format.
	ver := b.CreateString(z.Version)
	tool := b.CreateString(z.BuildTool)
	toc := marshalTOC(b, z.TOC)
	info := marshalInfo(z.ZInfo, b, checkpoints)
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
	modTime := b.CreateString(string(appendTime(nil, e.ModTime)))
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

func marshalInfo(z *ZInfo, b *flatbuffers.Builder, checkpoints []byte) flatbuffers.UOffsetT {
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
func marshalCheckpoints(z *ZInfo) ([]byte, error) {
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
	var zeros [windowSize]byte
	for i := range spans {
		s := &spans[i]
		in, window := s.In.Off, s.Window
		if s.Bits != 0 {
			in++ // the wire has the first whole byte
		}
		if window == nil {
			window = zeros[:]
		}
		if len(window) != windowSize {
			return nil, badf("span", "window of %d bytes", len(window))
		}
		p = binary.LittleEndian.AppendUint64(p, uint64(in))
		p = binary.LittleEndian.AppendUint64(p, uint64(s.Out.Off))
		p = append(append(p, s.Bits), window...)
	}
	return p, nil
}

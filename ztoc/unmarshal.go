// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/ztoc/internal/flat"
)

// errShared says that parts of a zTOC overlap: no writer does that, and unpacking
// it could need any amount of memory.
var errShared = errors.New("overlapping data")

// Unmarshal decodes and validates a zTOC 0.9. The result aliases p (windows only; strings are copied).
//
// Whatever p holds, it does not panic, and needs memory in proportion to len(p).
// The error matches ErrFormat or ErrLimit.
func Unmarshal(p []byte) (z *ZTOC, err error) {
	if len(p) > MaxSize {
		return nil, fmt.Errorf("unmarshal zTOC: %w: %d bytes", ErrLimit, len(p))
	}
	defer func() {
		// The generated accessors follow offsets without checking them.
		switch r := recover().(type) {
		case nil:
		case runtime.Error: // its text speaks of our code, not of p
			z, err = nil, fmt.Errorf("unmarshal zTOC: %w", badf("zTOC", "an offset in it leads out of it"))
		default:
			panic(r)
		}
	}()
	u := unmarshaler{size: int64(len(p)), budget: int64(len(p))}
	if z, err = u.ztoc(p); err != nil {
		return nil, fmt.Errorf("unmarshal zTOC: %w", err)
	}
	return z, nil
}

// unmarshaler is one run of Unmarshal.
type unmarshaler struct {
	size   int64
	budget int64 // of size, what no part of the result has been charged for yet
}

// charge accounts for n bytes of the input.
func (u *unmarshaler) charge(n int64) error {
	if u.budget -= n; u.budget < 0 {
		return &FormatError{Field: "zTOC", Off: -1, Err: errShared}
	}
	return nil
}

// count checks a vector's length n, whose elements take at least each bytes,
// before anything is allocated for it.
func (u *unmarshaler) count(field string, n int, each int64) error {
	if n < 0 || int64(n) > u.size/each {
		return badf(field, "%d elements in %d bytes", n, u.size)
	}
	return nil
}

func (u *unmarshaler) ztoc(p []byte) (*ZTOC, error) {
	const least = 8 // root offset and an empty table
	if len(p) < least {
		return nil, badf("zTOC", "%d bytes", len(p))
	}
	root := flat.GetRootAsZtoc(p, 0)
	toc, info := root.Toc(nil), root.CompressionInfo(nil)
	if toc == nil || info == nil {
		return nil, badf("zTOC", "no TOC or no compression info")
	}
	z := &ZTOC{Version: string(root.Version()), BuildTool: string(root.BuildToolIdentifier())}
	var err error
	if z.ZInfo, err = u.zinfo(root, info); err != nil {
		return nil, err
	}
	if z.TOC, err = u.toc(toc, z.ZInfo.UncompressedSize); err != nil {
		return nil, err
	}
	return z, nil
}

// toc reads the entries of a layer of size uncompressed bytes.
func (u *unmarshaler) toc(t *flat.TOC, size int64) ([]Entry, error) {
	n := t.MetadataLength()
	if err := u.count("TOC", n, entrySize); err != nil {
		return nil, err
	}
	if n > MaxEntries {
		return nil, fmt.Errorf("TOC: %w: %d entries", ErrLimit, n)
	}
	toc := make([]Entry, n)
	var (
		m   flat.FileMetadata
		end int64 // of the previous entry's data
	)
	for i := range toc {
		if !t.Metadata(&m, i) {
			return nil, badf("TOC", "entry %d is missing", i)
		}
		e := &toc[i]
		if err := u.entry(e, &m); err != nil {
			return nil, fmt.Errorf("entry %d, %q: %w", i, clip(e.Name), err)
		}
		// A header of at least a block lies between the data of two entries.
		if header := align(end); e.Offset < header+tarBlock || e.Offset%tarBlock != 0 || e.Offset > size || e.Size > size-e.Offset {
			return nil, badf("entry", "%d, %q: %d bytes at %d, behind %d, in a layer of %d", i, clip(e.Name), e.Size, e.Offset, end, size)
		}
		end = e.Offset + e.Size
	}
	return toc, nil
}

// align rounds n up to whole tar blocks.
func align(n int64) int64 { return (n + tarBlock - 1) &^ (tarBlock - 1) }

func (u *unmarshaler) entry(e *Entry, m *flat.FileMetadata) error {
	name, typ, linkname := m.Name(), m.Type(), m.Linkname()
	uname, gname, modTime := m.Uname(), m.Gname(), m.ModTime()
	if err := u.charge(entrySize + int64(len(name)+len(typ)+len(linkname)+len(uname)+len(gname)+len(modTime))); err != nil {
		return err
	}
	*e = Entry{
		Name: string(name), Linkname: string(linkname),
		Offset: m.UncompressedOffset(), Size: m.UncompressedSize(), Mode: m.Mode(),
		UID: m.Uid(), GID: m.Gid(), Uname: string(uname), Gname: string(gname),
		Devmajor: m.Devmajor(), Devminor: m.Devminor(),
	}
	for t := TypeReg; t <= TypeFifo; t++ {
		if string(typ) == typeNames[t] {
			e.Type = t
		}
	}
	if e.Type == 0 {
		return badf("entry", "type %q", clip(string(typ)))
	}
	var err error
	if e.ModTime, err = unmarshalTime(modTime); err != nil {
		return badf("entry", "modification time: %w", err)
	}
	if n := m.XattrsLength(); n != 0 {
		if err := u.charge(int64(n) * xattrSize); n < 0 || err != nil {
			return badf("PAX records", "%d: %w", n, errShared)
		}
		e.PAX = make([]Record, n)
	}
	var x flat.Xattr
	for i := range e.PAX {
		if !m.Xattrs(&x, i) {
			return badf("entry", "PAX record %d is missing", i)
		}
		k, v := x.Key(), x.Value()
		if err := u.charge(int64(len(k) + len(v))); err != nil {
			return err
		}
		e.PAX[i] = Record{string(k), string(v)}
	}
	return e.check()
}

// zinfo reads the sizes and spans of the layer.
func (u *unmarshaler) zinfo(root *flat.Ztoc, info *flat.CompressionInfo) (*ZInfo, error) {
	z := &ZInfo{
		Compression:      Compression(info.CompressionAlgorithm()),
		CompressedSize:   root.CompressedArchiveSize(),
		UncompressedSize: root.UncompressedArchiveSize(),
	}
	if z.CompressedSize <= 0 || z.CompressedSize > MaxLayerSize {
		return nil, badf("compressed size", "%d", z.CompressedSize)
	}
	if z.UncompressedSize < 0 || z.UncompressedSize > maxInflated(z.CompressedSize) {
		return nil, badf("uncompressed size", "%d from %d bytes", z.UncompressedSize, z.CompressedSize)
	}
	n := info.SpanDigestsLength()
	if err := u.count("span digests", n, digestSize); err != nil {
		return nil, err
	}
	if n == 0 || int64(info.MaxSpanId()) != int64(n)-1 {
		return nil, badf("span digests", "%d for max span id %d", n, info.MaxSpanId())
	}
	blob := info.CheckpointsBytes()
	if err := u.charge(int64(len(blob)) + int64(n)*digestSize); err != nil {
		return nil, fmt.Errorf("%d span digests: %w", n, err)
	}
	z.Spans = make([]Span, n)
	for i := range z.Spans {
		if err := unmarshalSum(&z.Spans[i].Sum, info.SpanDigests(i)); err != nil {
			return nil, badf("span digest", "%d: %w", i, err)
		}
	}
	var err error
	switch z.Compression {
	case Gzip:
		err = z.unmarshalCheckpoints(blob)
	case Uncompressed:
		err = z.unmarshalTarZinfo(blob)
	default:
		err = badf("compression", "algorithm %d", z.Compression)
	}
	if err == nil {
		err = z.check()
	}
	if err != nil {
		return nil, err
	}
	return z, nil
}

// unmarshalSum sets sum to the SHA-256 digest whose text is p.
func unmarshalSum(sum *[sha256.Size]byte, p []byte) error {
	const prefix = "sha256:"
	switch {
	case len(p) < len(prefix) || string(p[:len(prefix)]) != prefix:
		return digest.ErrDigestUnsupported
	case len(p) != len(prefix)+hex.EncodedLen(len(sum)):
		return digest.ErrDigestInvalidLength
	}
	p = p[len(prefix):]
	if bytes.ContainsAny(p, "ABCDEF") {
		return digest.ErrDigestInvalidFormat // one digest, one text
	}
	if _, err := hex.Decode(sum[:], p); err != nil {
		return digest.ErrDigestInvalidFormat
	}
	return nil
}

// unmarshalCheckpoints reads the starts of z.Spans, which are as many as there
// are digests, from the blob of a gzip layer.
func (z *ZInfo) unmarshalCheckpoints(p []byte) error {
	if len(p) < checkpointHeader {
		return badf("checkpoints", "%d bytes", len(p))
	}
	n := int64(int32(binary.LittleEndian.Uint32(p)))
	if n != int64(len(z.Spans)) {
		return badf("checkpoints", "%d for %d span digests", n, len(z.Spans))
	}
	z.SpanSize = int64(binary.LittleEndian.Uint64(p[4:]))
	first := 0
	switch int64(len(p)) {
	case checkpointHeader + n*checkpointSize:
	case checkpointHeader + (n-1)*checkpointSize:
		z.legacy = true
		z.Spans[0].In.Off = legacyFirstIn
		first = 1
	default:
		return badf("checkpoints", "%d bytes for %d", len(p), n)
	}
	p = p[checkpointHeader:]
	for i := first; i < len(z.Spans); i++ {
		s, c := &z.Spans[i], p[:checkpointSize:checkpointSize]
		p = p[checkpointSize:]
		s.In.Off = int64(binary.LittleEndian.Uint64(c))
		s.Out.Off = int64(binary.LittleEndian.Uint64(c[8:]))
		if s.Bits = c[16]; s.Bits > 7 {
			return badf("checkpoint", "%d: %d bits", i, s.Bits)
		}
		if s.Bits != 0 {
			s.In.Off--
		}
		s.Window = c[17:]
		if s.Out.Off == 0 && [windowSize]byte(s.Window) == [windowSize]byte{} {
			s.Window = nil
		}
	}
	return z.setInLens()
}

// setInLens sets In.Len of every span from its neighbour's start.
func (z *ZInfo) setInLens() error {
	for i := range z.Spans {
		s := &z.Spans[i]
		end := z.CompressedSize
		if i+1 < len(z.Spans) {
			next := &z.Spans[i+1]
			end = next.In.Off
			if next.Bits != 0 && end >= 0 {
				end++ // the byte both share
			}
		}
		if s.In.Off < 0 || end < s.In.Off || end > z.CompressedSize {
			return badf("checkpoint", "%d: compressed range [%d, %d) in a layer of %d", i, s.In.Off, end, z.CompressedSize)
		}
		s.In.Len = end - s.In.Off
	}
	return nil
}

// unmarshalTarZinfo lays out the spans of an uncompressed layer.
func (z *ZInfo) unmarshalTarZinfo(p []byte) error {
	const least = 8
	if len(p) < least {
		return badf("checkpoints", "%d bytes", len(p))
	}
	t := flat.GetRootAsTarZinfo(p, 0)
	if t.Version() != tarZinfoVersion || t.Size() != z.CompressedSize || z.UncompressedSize > z.CompressedSize {
		return badf("checkpoints", "version %d, size %d in a layer of %d of which %d bytes are the tar", t.Version(), t.Size(), z.CompressedSize, z.UncompressedSize)
	}
	z.SpanSize = t.SpanSize()
	if z.SpanSize <= 0 || (z.CompressedSize-1)/z.SpanSize+1 != int64(len(z.Spans)) {
		return badf("checkpoints", "%d spans of %d bytes in a layer of %d", len(z.Spans), z.SpanSize, z.CompressedSize)
	}
	for i := range z.Spans {
		off := int64(i) * z.SpanSize
		z.Spans[i].In = Range{Off: off, Len: min(z.SpanSize, z.CompressedSize-off)}
		z.Spans[i].Out.Off = off
	}
	return nil
}

// check validates the spans, whose In and Out.Off are set, and sets Out.Len.
func (z *ZInfo) check() error {
	if z.SpanSize < 0 {
		return badf("span size", "%d", z.SpanSize)
	}
	for i := range z.Spans {
		off, least, most := z.Spans[i].Out.Off, int64(0), int64(0)
		if i > 0 {
			prev := &z.Spans[i-1]
			least = prev.Out.Off
			most = least + maxInflated(prev.In.Len) // both are at most some 2^54
		}
		if off < least || off > most {
			return badf("checkpoint", "%d: uncompressed offset %d, want %d to %d", i, off, least, most)
		}
	}
	setOutLens(z.Spans, z.UncompressedSize)
	for i := range z.Spans {
		s := &z.Spans[i]
		if s.Out.Len > maxInflated(s.In.Len) || s.Out.Len > MaxSpan || s.In.Len > MaxSpan {
			return badf("checkpoint", "%d: %d bytes from %d", i, s.Out.Len, s.In.Len)
		}
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"iter"

	"github.com/opencontainers/go-digest"
)

// DefaultCompactSpanSize is a good span size of a compact zTOC: a random read inflates
// a quarter of a MiB, in a fiftieth of the time of a whole span of 0.9, and the zTOC
// measures a sixth of that of 0.9.
const DefaultCompactSpanSize = 512 << 10

// The fixed part of a compact zTOC; see FORMAT.md.
const (
	compactMagic   = "seekztoc"
	compactVersion = 1
	compactHeader  = 8 + 4 + 4 + 32 + 32
	// The sections unpack to at most so many bytes, and so many for each byte of the
	// zTOC: a few bytes cannot ask for much memory. The most regular tables get to half
	// of the ratio. In any case that is no more than the limit of all names.
	maxUnpacked      = 4 << 20
	maxUnpackedRatio = 1 << 10
)

// unpackLimit is the most bytes that the sections of a compact zTOC of so many bytes
// may unpack to, those that are stored as they are included.
func unpackLimit(size int64) int64 {
	return min(maxUnpacked+maxUnpackedRatio*size, MaxTOCSize+size)
}

// Compact is an opened compact zTOC: like a ZTOC, but used in place. It is
// immutable and safe for concurrent use.
type Compact struct {
	layer, diffID [32]byte
	tool          []byte
	zinfo         ZInfo
	table         table
}

// OpenCompact opens the compact zTOC that p holds, which must stay unchanged as long
// as it is used. The file table is unpacked, to one piece of memory, but not taken
// apart; windows stay compressed until they are used.
//
// Whatever p holds, nothing panics, and what it takes is bounded: by 4 MiB and 1,024
// bytes for each byte of p, and by MaxTOCSize. The spans are validated here. The table is where it is
// looked at: see Check. The error matches ErrFormat or ErrLimit.
func OpenCompact(p []byte) (*Compact, error) {
	if len(p) > MaxSize {
		return nil, fmt.Errorf("open compact zTOC: %w: %d bytes", ErrLimit, len(p))
	}
	c := new(Compact)
	if err := c.open(p); err != nil {
		return nil, fmt.Errorf("open compact zTOC: %w", err)
	}
	return c, nil
}

func (c *Compact) open(p []byte) error {
	if len(p) < compactHeader || string(p[:len(compactMagic)]) != compactMagic {
		return badf("compact zTOC", "no magic number in %d bytes", len(p))
	}
	h := p[len(compactMagic):]
	if v := binary.LittleEndian.Uint32(h); v != compactVersion {
		return badf("compact zTOC", "version %d", v)
	}
	dir := int64(binary.LittleEndian.Uint32(h[4:]))
	copy(c.layer[:], h[8:])
	copy(c.diffID[:], h[8+32:])
	if p = p[compactHeader:]; dir > int64(len(p)) {
		return badf("compact zTOC", "directory of %d bytes in %d", dir, len(p))
	}
	r := &sectionReader{dir: p[:dir:dir], body: p[dir:], left: unpackLimit(int64(len(p)))}
	z, t := &c.zinfo, &c.table
	z.Compression = Compression(r.uvarint(uint64(Uncompressed)))
	z.CompressedSize = int64(r.uvarint(MaxLayerSize))
	z.UncompressedSize = int64(r.uvarint(MaxLayerSize * maxRatio))
	z.SpanSize = int64(r.uvarint(MaxSpan))
	spans := int(r.uvarint(uint64(len(p) / len(Span{}.Sum))))
	t.entries = int(r.uvarint(MaxEntries))
	t.nodes = int(r.uvarint(maxNodes))
	classes := int(r.uvarint(MaxEntries))
	t.size = z.UncompressedSize
	var starts, sums, groups, windows []byte
	r.text(&c.tool, MaxName)
	r.text(&starts, r.left)
	r.text(&sums, r.left)
	r.text(&groups, r.left)
	r.text(&windows, r.left)
	t.read(r, classes)
	if err := r.unpackAll(); err != nil {
		return err
	}
	t.classText = string(t.classes)
	if err := z.readSpans(spans, starts, sums); err != nil {
		return err
	}
	if t.nodes < 1 {
		return badf("table", "no root")
	}
	if int64(t.entries) > t.size/tarBlock {
		return badf("table", "%d entries in %d bytes", t.entries, t.size)
	}
	var err error
	z.windows, err = newWindowSet(spans, groups, windows)
	return err
}

// readSpans sets the spans of a compact zTOC: n of them.
func (z *ZInfo) readSpans(n int, starts, sums []byte) error {
	if z.Compression != Gzip && z.Compression != Uncompressed {
		return badf("compression", "algorithm %d", z.Compression)
	}
	if z.CompressedSize <= 0 || z.UncompressedSize > maxInflated(z.CompressedSize) {
		return badf("uncompressed size", "%d from %d bytes", z.UncompressedSize, z.CompressedSize)
	}
	if n < 1 || len(sums) != n*len(Span{}.Sum) {
		return badf("span digests", "%d bytes for %d spans", len(sums), n)
	}
	z.Spans = make([]Span, n)
	r := strs{p: starts}
	var bit, out uint64
	for i := range z.Spans {
		s := &z.Spans[i]
		b, o := r.uvarint(), r.uvarint()
		if b > 8*MaxLayerSize || o > MaxLayerSize*maxRatio {
			return badf("checkpoint", "%d: %d bits, %d bytes behind the one before", i, b, o)
		}
		bit += b // both stay far from overflowing: see below
		out += o
		if bit > 8*uint64(z.CompressedSize) {
			return badf("checkpoint", "%d: bit %d in a layer of %d bytes", i, bit, z.CompressedSize)
		}
		if out > MaxLayerSize*maxRatio {
			return badf("checkpoint", "%d: uncompressed offset %d", i, out)
		}
		s.In.Off, s.Bits = int64(bit/8), uint8(-bit&7)
		s.Out.Off = int64(out)
		copy(s.Sum[:], sums[i*len(s.Sum):])
	}
	if r.bad || len(r.p) != 0 {
		return badf("checkpoints", "%d bytes for %d", len(starts), n)
	}
	if err := z.setInLens(); err != nil {
		return err
	}
	if err := z.check(); err != nil {
		return err
	}
	if z.Compression == Uncompressed {
		for i := range z.Spans {
			if s := &z.Spans[i]; s.Bits != 0 || s.In.Off != s.Out.Off || s.Out.Len > s.In.Len {
				return badf("checkpoint", "%d: [%d,+%d) of an uncompressed layer at %d", i, s.Out.Off, s.Out.Len, s.In.Off)
			}
		}
	}
	return nil
}

// ZInfo returns the layer's spans. They have no Window; those are unpacked when a
// span is decoded.
func (c *Compact) ZInfo() *ZInfo { return &c.zinfo }

// LayerDigest returns the digest of the layer, which is sha256.
func (c *Compact) LayerDigest() digest.Digest { return sumDigest(&c.layer) }

// DiffID returns the digest of the uncompressed layer, padding included.
func (c *Compact) DiffID() digest.Digest { return sumDigest(&c.diffID) }

func sumDigest(sum *[32]byte) digest.Digest {
	return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(sum[:]))
}

// BuildTool names the writer.
func (c *Compact) BuildTool() string { return string(c.tool) }

// Len returns the number of entries.
func (c *Compact) Len() int { return c.table.entries }

// Lookup returns the entry of a path; slashes and dots that mean nothing do not
// count. Of entries of the same path it is the last one. It reports false where
// there is none, for a directory that other paths imply too, and for an entry that
// is malformed.
func (c *Compact) Lookup(name string) (Entry, bool) {
	t := &c.table
	node, ok := t.lookup(name)
	if !ok {
		return Entry{}, false
	}
	rank, ok := t.rank(node)
	if !ok {
		return Entry{}, false
	}
	var (
		e   Entry
		at  = placer{t: t}
		buf [nameBuffer]byte
	)
	if !at.place(rank) || !t.entry(&e, &at, append(buf[:0], cleanPath(name)...), nil) {
		return Entry{}, false
	}
	return e, true
}

// Entries returns the entries in the order of the tar, those of the layer's 0.9
// zTOC. They end early where the table is malformed: see Check. It needs 4 bytes of
// memory for each entry, and up to 8 for each time that few entries have.
func (c *Compact) Entries() iter.Seq2[int, Entry] {
	return func(yield func(int, Entry) bool) {
		_ = c.table.walk(func(i int, e *Entry) bool { return yield(i, *e) }) // Check has the error
	}
}

// Check validates all of the file table: Entries has Len entries then, and Lookup
// finds them. The error matches ErrFormat or ErrLimit.
func (c *Compact) Check() error {
	err := c.table.checkNames()
	if err == nil {
		err = c.table.walk(func(int, *Entry) bool { return true })
	}
	if err != nil {
		return fmt.Errorf("check compact zTOC: %w", err)
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	flatbuffers "github.com/google/flatbuffers/go"

	"github.com/seekoci/seekoci/ztoc/internal/flat"
)

// small returns a zTOC of two entries and three spans that Unmarshal accepts.
func small(c Compression) *ZTOC {
	d := sha256.Sum256([]byte("span"))
	z := &ZTOC{
		Version: version, BuildTool: DefaultBuildTool,
		TOC: []Entry{
			{Name: "a", Type: TypeReg, Offset: 512, Size: 600, Mode: 0o644, ModTime: time.Unix(1, 0).UTC()},
			{Name: "b", Linkname: "a", Type: TypeHardlink, Offset: 2048, ModTime: time.Unix(2, 5).UTC(), PAX: []Record{{"k1", "v1"}, {"k2", ""}}},
		},
		ZInfo: &ZInfo{
			Compression: c, SpanSize: 1000, CompressedSize: 2500, UncompressedSize: 2500,
			Spans: []Span{
				{In: Range{0, 1000}, Out: Range{0, 1000}, Sum: d},
				{In: Range{1000, 1000}, Out: Range{1000, 1000}, Sum: d},
				{In: Range{2000, 500}, Out: Range{2000, 500}, Sum: d},
			},
		},
	}
	if c == Gzip {
		s := z.ZInfo.Spans
		s[0].In = Range{10, 991}
		s[1].Bits, s[1].Window = 3, bytes.Repeat([]byte{1}, windowSize)
		s[2].Window = bytes.Repeat([]byte{2}, windowSize)
	}
	return z
}

// mustEncode is Marshal without its checks.
func mustEncode(t testing.TB, z *ZTOC) []byte {
	t.Helper()
	checkpoints, err := marshalCheckpoints(z.ZInfo)
	if err != nil {
		t.Fatal(err)
	}
	return encode(z, checkpoints)
}

// blobOf returns the checkpoints in p, in place.
func blobOf(p []byte) []byte {
	return flat.GetRootAsZtoc(p, 0).CompressionInfo(nil).CheckpointsBytes()
}

func TestWireLayout(t *testing.T) {
	blob := blobOf(mustEncode(t, small(Gzip)))
	if len(blob) != 12+3*32785 {
		t.Fatalf("blob of %d bytes", len(blob))
	}
	le := binary.LittleEndian
	second := blob[12+32785:]
	if n, size := le.Uint32(blob), le.Uint64(blob[4:]); n != 3 || size != 1000 {
		t.Errorf("header %d, %d", n, size)
	}
	// The span begins at byte 1000, of which 3 bits are its own: the first whole byte is 1001.
	if in, out, bits := le.Uint64(second), le.Uint64(second[8:]), second[16]; in != 1001 || out != 1000 || bits != 3 {
		t.Errorf("second checkpoint in %d, out %d, bits %d", in, out, bits)
	}
	if second[17] != 1 || second[32784] != 1 || second[32785+17] != 2 {
		t.Error("windows are not where they belong")
	}
}

func TestLegacyCheckpoints(t *testing.T) {
	z := small(Gzip)
	full := mustEncode(t, z)
	z.ZInfo.legacy = true
	p, err := z.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(blobOf(p)); n != 12+2*32785 {
		t.Fatalf("v1 blob of %d bytes", n)
	}
	got, err := Unmarshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if s := got.ZInfo.Spans[0]; s.In != (Range{10, 991}) || s.Out != (Range{0, 1000}) || s.Bits != 0 || s.Window != nil {
		t.Errorf("implied first span %+v", s)
	}
	if again, err := got.Marshal(); err != nil || !bytes.Equal(again, p) {
		t.Errorf("v1 does not stay v1 (%v)", err)
	}
	got.ZInfo.legacy = false
	if again, err := got.Marshal(); err != nil || !bytes.Equal(again, full) {
		t.Errorf("v1 as v2 differs (%v)", err)
	}
}

func TestTimes(t *testing.T) {
	z := small(Gzip)
	z.TOC[0].ModTime = time.Date(10500, 1, 1, 0, 0, 0, 0, time.UTC)                // has no wire form
	z.TOC[1].ModTime = time.Date(2020, 1, 1, 0, 0, 0, 0, time.FixedZone("", 7200)) // of an indexer not in UTC
	p := mustEncode(t, z)
	got, err := Unmarshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if !got.TOC[1].ModTime.Equal(z.TOC[1].ModTime) || got.TOC[0].ModTime.Year() != 10000 {
		t.Errorf("times %v, %v", got.TOC[0].ModTime, got.TOC[1].ModTime)
	}
	if again := mustEncode(t, got); !bytes.Equal(again, p) {
		t.Error("second marshal differs")
	}
}

func TestUnmarshalRejects(t *testing.T) {
	entry := func(f func(*Entry)) func(*ZTOC) { return func(z *ZTOC) { f(&z.TOC[0]) } }
	info := func(f func(*ZInfo)) func(*ZTOC) { return func(z *ZTOC) { f(z.ZInfo) } }
	span := func(i int, f func(*Span)) func(*ZTOC) { return func(z *ZTOC) { f(&z.ZInfo.Spans[i]) } }
	for _, tt := range []struct {
		name string
		c    Compression
		mod  func(*ZTOC)
		text string
	}{
		{"no name", Gzip, entry(func(e *Entry) { e.Name = "" }), "empty name"},
		{"NUL in name", Gzip, entry(func(e *Entry) { e.Name = "a\x00b" }), "NUL"},
		{"NUL in link", Gzip, entry(func(e *Entry) { e.Linkname = "\x00" }), "NUL"},
		{"long name", Gzip, entry(func(e *Entry) { e.Name = strings.Repeat("n", MaxName+1) }), "limit exceeded"},
		{"type", Gzip, entry(func(e *Entry) { e.Type = 9 }), "type"},
		{"negative size", Gzip, entry(func(e *Entry) { e.Size = -1 }), "size -1"},
		{"huge size", Gzip, entry(func(e *Entry) { e.Size = math.MaxInt64 }), "in a layer of 2500"},
		{"directory with data", Gzip, entry(func(e *Entry) { e.Type = TypeDir }), "size 600"},
		{"no room for the header", Gzip, entry(func(e *Entry) { e.Offset = 0 }), "0"},
		{"negative offset", Gzip, entry(func(e *Entry) { e.Offset = -512 }), "-512"},
		{"huge offset", Gzip, entry(func(e *Entry) { e.Offset = math.MaxInt64 &^ 511; e.Size = 600 }), "in a layer"},
		{"odd offset", Gzip, entry(func(e *Entry) { e.Offset = 513 }), "513"},
		{"overlap", Gzip, func(z *ZTOC) { z.TOC[1].Offset = 1536 }, "1536"},
		{"behind the end", Gzip, func(z *ZTOC) { z.TOC[1].Offset = 2560 }, "2560"},
		{"unsorted PAX", Gzip, func(z *ZTOC) { z.TOC[1].PAX[1].Key = "k0" }, "out of order"},
		{"double PAX key", Gzip, func(z *ZTOC) { z.TOC[1].PAX[1].Key = "k1" }, "out of order"},
		{"no spans", Gzip, info(func(i *ZInfo) { i.Spans = nil }), "span digests"},
		{"compressed size", Gzip, info(func(i *ZInfo) { i.CompressedSize = 0 }), "compressed size"},
		{"huge compressed size", Gzip, info(func(i *ZInfo) { i.CompressedSize = math.MaxInt64 }), "compressed size"},
		{"uncompressed size", Gzip, info(func(i *ZInfo) { i.UncompressedSize = -1 }), "uncompressed size"},
		{"bomb", Gzip, info(func(i *ZInfo) { i.UncompressedSize = 2501*1032 + 1 }), "uncompressed size"},
		{"span bomb", Gzip, info(func(i *ZInfo) { i.UncompressedSize = 2000 + 501*1032 + 1 }), "checkpoint: 2"},
		{"span size", Gzip, info(func(i *ZInfo) { i.SpanSize = -5 }), "span size"},
		{"first out", Gzip, span(0, func(s *Span) { s.Out.Off = 1 }), "checkpoint: 0"},
		{"out backwards", Gzip, span(2, func(s *Span) { s.Out.Off = 999 }), "checkpoint: 2"},
		{"out negative", Gzip, span(1, func(s *Span) { s.Out.Off = math.MinInt64 }), "checkpoint: 1"},
		{"out huge", Gzip, span(2, func(s *Span) { s.Out.Off = math.MaxInt64 }), "checkpoint: 2"},
		{"in backwards", Gzip, span(2, func(s *Span) { s.In.Off = 998 }), "checkpoint: 1"},
		{"in negative", Gzip, span(0, func(s *Span) { s.In.Off = -1 }), "checkpoint: 0"},
		{"in huge", Gzip, span(2, func(s *Span) { s.In.Off = math.MaxInt64 }), "checkpoint: 1"},
		{"in lowest, shared", Gzip, span(1, func(s *Span) { s.In.Off = math.MaxInt64 }), "checkpoint: 0"},
		{"bits", Gzip, span(1, func(s *Span) { s.Bits = 8 }), "8 bits"},
		{"compression", Gzip, info(func(i *ZInfo) { i.Compression = Uncompressed; i.SpanSize = 0 }), "0 bytes"},
		{"tar span size", Uncompressed, info(func(i *ZInfo) { i.SpanSize = math.MinInt64 }), "checkpoints"},
		{"tar span count", Uncompressed, info(func(i *ZInfo) { i.SpanSize = 999; i.Spans = i.Spans[:2] }), "2 spans of 999"},
		{"tar size", Uncompressed, info(func(i *ZInfo) { i.UncompressedSize = 2501 }), "2501"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			z := small(tt.c)
			if _, err := Unmarshal(mustEncode(t, z)); err != nil {
				t.Fatalf("unmodified: %v", err)
			}
			tt.mod(z)
			checkRejected(t, mustEncode(t, z), tt.text)
		})
	}
}

// checkRejected expects a typed error that says text.
func checkRejected(t *testing.T, p []byte, text string) {
	t.Helper()
	_, err := Unmarshal(p)
	if err == nil || !errors.Is(err, ErrFormat) && !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want one that says %q", err, text)
	}
}

func TestUnmarshalRejectsSum(t *testing.T) {
	const text = "sha256:"
	for name, patch := range map[string]func(p []byte){ // p begins with the length of a digest
		"short":     func(p []byte) { p[0] = 70 },
		"empty":     func(p []byte) { p[0] = 0 },
		"long":      func(p []byte) { p[0] = 72 },
		"algorithm": func(p []byte) { copy(p[4:], "sha384:") },
		"not hex":   func(p []byte) { p[4+70] = 'g' },
		"uppercase": func(p []byte) { copy(p[4+len(text):], bytes.ToUpper(p[4+len(text):4+71])) },
	} {
		t.Run(name, func(t *testing.T) {
			p := mustEncode(t, small(Gzip))
			patch(p[bytes.Index(p, []byte(text))-4:])
			checkRejected(t, p, "digest")
		})
	}
}

func TestUnmarshalRejectsBlob(t *testing.T) {
	patch := func(f func(blob []byte)) []byte {
		p := mustEncode(t, small(Gzip))
		f(blobOf(p))
		return p
	}
	blob := func(blob []byte) []byte {
		z := small(Gzip)
		return encode(z, blob)
	}
	overflow := make([]byte, 31641) // 32785*131005+12, modulo 2^32
	binary.LittleEndian.PutUint32(overflow, 131005)
	for name, p := range map[string][]byte{
		"count":          patch(func(b []byte) { b[0] = 4 }),
		"count 0":        patch(func(b []byte) { b[0] = 0 }),
		"count negative": patch(func(b []byte) { b[3] = 0x80 }),
		"no blob":        blob(nil),
		"short blob":     blob(make([]byte, 11)),
		"overflow":       blob(overflow),
		"one byte less":  blob(blobOf(mustEncode(t, small(Gzip)))[:12+3*32785-1]),
	} {
		t.Run(name, func(t *testing.T) { checkRejected(t, p, "checkpoints") })
	}
}

// TestUnmarshalShared has every entry refer to the same table of many records,
// which would unpack to gigabytes.
func TestUnmarshalShared(t *testing.T) {
	b := flatbuffers.NewBuilder(0)
	str := func(s string) flatbuffers.UOffsetT { return b.CreateString(s) }
	vec := func(n int, off flatbuffers.UOffsetT) flatbuffers.UOffsetT {
		b.StartVector(4, n, 4)
		for range n {
			b.PrependUOffsetT(off)
		}
		return b.EndVector(n)
	}
	key, name, typ := str("k"), str("name"), str("reg")
	flat.XattrStart(b)
	flat.XattrAddKey(b, key)
	xattrs := vec(10000, flat.XattrEnd(b))
	flat.FileMetadataStart(b)
	flat.FileMetadataAddName(b, name)
	flat.FileMetadataAddType(b, typ)
	flat.FileMetadataAddUncompressedOffset(b, 512)
	flat.FileMetadataAddXattrs(b, xattrs)
	metadata := vec(10000, flat.FileMetadataEnd(b))
	flat.TOCStart(b)
	flat.TOCAddMetadata(b, metadata)
	toc := flat.TOCEnd(b)
	z := small(Uncompressed).ZInfo
	blob, err := marshalCheckpoints(z)
	if err != nil {
		t.Fatal(err)
	}
	info := marshalInfo(z, b, blob)
	flat.ZtocStart(b)
	flat.ZtocAddToc(b, toc)
	flat.ZtocAddCompressedArchiveSize(b, z.CompressedSize)
	flat.ZtocAddUncompressedArchiveSize(b, z.UncompressedSize)
	flat.ZtocAddCompressionInfo(b, info)
	b.Finish(flat.ZtocEnd(b))
	_, err = Unmarshal(b.FinishedBytes())
	if !errors.Is(err, ErrFormat) {
		t.Errorf("error %v, want ErrFormat", err)
	}
}

// TestUnmarshalCut cuts a zTOC everywhere but in its final padding, and flips bytes of its structure: it
// must not panic, and what it returns must be valid.
func TestUnmarshalCut(t *testing.T) {
	for _, c := range []Compression{Gzip, Uncompressed} {
		whole := mustEncode(t, small(c))
		for n := 0; n < len(whole)-8; n += 1 + n/2048*1021 {
			if _, err := Unmarshal(whole[:n]); err == nil {
				t.Errorf("%d of %d bytes: no error", n, len(whole))
			}
		}
		for i := 0; i < len(whole); i += 1 + i/2048*1021 {
			for _, x := range []byte{1, 0x80, 0xff} {
				whole[i] ^= x
				if z, err := Unmarshal(whole); err == nil {
					if err := z.ZInfo.check(); err != nil {
						t.Errorf("byte %d flipped: %v", i, err)
					}
				}
				whole[i] ^= x
			}
		}
	}
}

// randomZTOC returns a zTOC with every form of entry there is.
func randomZTOC(r *rand.Rand) *ZTOC {
	text := func(c string, n int) string { return strings.Repeat(c, r.IntN(n)) }
	num := func() int64 { return r.Int64() >> r.IntN(63) * r.Int64N(2) }
	z := small([]Compression{Gzip, Uncompressed}[r.IntN(2)])
	z.BuildTool = text("t", 9)
	z.ZInfo.Spans = nil
	for range 1 + r.IntN(4) {
		s := Span{In: Range{Off: num()}, Out: Range{Off: num()}, Bits: uint8(r.IntN(8))}
		s.Sum = sha256.Sum256([]byte{byte(s.Bits)})
		if r.IntN(2) == 0 {
			s.Window = bytes.Repeat([]byte{s.Bits}, windowSize)
		}
		z.ZInfo.Spans = append(z.ZInfo.Spans, s)
	}
	z.ZInfo.legacy = r.IntN(3) == 0 && z.ZInfo.Compression == Gzip
	z.ZInfo.SpanSize, z.ZInfo.CompressedSize, z.ZInfo.UncompressedSize = num(), num(), num()
	z.TOC = nil
	for range r.IntN(300) {
		e := Entry{
			Name: "n" + text("n", 40), Linkname: text("l", 5), Type: TypeReg + EntryType(r.IntN(7)), Offset: num(),
			Mode: num(), UID: uint32(num()), GID: uint32(num()), Devmajor: num(), Devminor: num(),
			Uname: text("u", 6), Gname: text("g", 7), ModTime: time.Unix(num()>>20, num()&0xfffffff).In(time.FixedZone("", 3600*r.IntN(3))),
		}
		if e.Type == TypeReg {
			e.Size = num()
		}
		for j := range r.IntN(4) {
			e.PAX = append(e.PAX, Record{strings.Repeat("k", 1+j), text("v", 9)})
		}
		z.TOC = append(z.TOC, e)
	}
	return z
}

// TestMarshalLikeBuilder holds Marshal to the bytes of the FlatBuffers library.
func TestMarshalLikeBuilder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 300 {
		z := randomZTOC(r)
		got, err := z.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if want := mustEncode(t, z); !bytes.Equal(got, want) || cap(got) != len(got) {
			t.Fatalf("%d: %d entries, %d spans: %d bytes in %d, want %d others", i, len(z.TOC), len(z.ZInfo.Spans), len(got), cap(got), len(want))
		}
	}
}

// TestWireWriterAgain writes a zTOC twice from one measuring.
func TestWireWriterAgain(t *testing.T) {
	z := randomZTOC(rand.New(rand.NewPCG(2, 2)))
	m := wireWriter{version: z.Version, tool: z.BuildTool, entries: toc(z.TOC), zinfo: z.ZInfo, window: func(int) ([]byte, error) { return nil, nil }}
	if err := m.measure(); err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	if err := errors.Join(m.write(&first), m.write(&second)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) || int64(first.Len()) != m.size {
		t.Errorf("%d and %d bytes, measured %d", first.Len(), second.Len(), m.size)
	}
}

func TestMarshalRejects(t *testing.T) {
	for name, mod := range map[string]func(*ZTOC){
		"no zInfo":    func(z *ZTOC) { z.ZInfo = nil },
		"no spans":    func(z *ZTOC) { z.ZInfo.Spans = nil },
		"window":      func(z *ZTOC) { z.ZInfo.Spans[1].Window = make([]byte, 5) },
		"compression": func(z *ZTOC) { z.ZInfo.Compression = 7 },
		"entry":       func(z *ZTOC) { z.TOC[0].Name = "" },
	} {
		z := small(Gzip)
		mod(z)
		if _, err := z.Marshal(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

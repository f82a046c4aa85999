// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"runtime"
	"slices"
	"testing"
	"time"

	flatbuffers "github.com/google/flatbuffers/go"
	"github.com/klauspost/compress/gzip"

	"github.com/seekoci/seekoci/ztoc/internal/flat"
)

// The weak spots of the incumbent, by number. Each has hostile files made for it; go test -run WeakSpot
// runs what all packages have of them.

// bounded runs f, which is to take less than so many bytes of memory, and no time to speak of.
func bounded(t *testing.T, memory uint64, f func()) {
	t.Helper()
	const most = 20 * time.Second // it is milliseconds; a busy machine is no fault
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	f()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > memory {
		t.Errorf("%d bytes of memory, more than %d", n, memory)
	}
	if d := time.Since(start); d > most {
		t.Errorf("it took %v", d)
	}
}

// rejected holds that Unmarshal refuses p, with a typed error and memory in proportion to it.
func rejected(t *testing.T, name string, p []byte) {
	t.Helper()
	bounded(t, uint64(8*len(p)+1<<20), func() {
		if z, err := Unmarshal(p); z != nil || !errors.Is(err, ErrFormat) && !errors.Is(err, ErrLimit) {
			t.Errorf("%s: error %v", name, err)
		}
	})
}

// craft makes a zTOC of no files whose parts need not fit: so many span digests, one string used for all
// of them or one for each, and any checkpoints.
func craft(alg flat.CompressionAlgorithm, digests int, shared bool, maxSpanID int32, checkpoints []byte, in, out int64) []byte {
	b := flatbuffers.NewBuilder(0)
	blob := b.CreateByteVector(checkpoints)
	const sum = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	offs := make([]flatbuffers.UOffsetT, digests)
	for i := range offs {
		if i > 0 && shared {
			offs[i] = offs[0]
			continue
		}
		offs[i] = b.CreateString(sum)
	}
	flat.CompressionInfoStartSpanDigestsVector(b, digests)
	list := endVector(b, offs)
	flat.CompressionInfoStart(b)
	flat.CompressionInfoAddMaxSpanId(b, maxSpanID)
	flat.CompressionInfoAddSpanDigests(b, list)
	flat.CompressionInfoAddCheckpoints(b, blob)
	flat.CompressionInfoAddCompressionAlgorithm(b, alg)
	info := flat.CompressionInfoEnd(b)
	flat.TOCStartMetadataVector(b, 0)
	none := b.EndVector(0)
	flat.TOCStart(b)
	flat.TOCAddMetadata(b, none)
	toc := flat.TOCEnd(b)
	flat.ZtocStart(b)
	flat.ZtocAddToc(b, toc)
	flat.ZtocAddCompressedArchiveSize(b, in)
	flat.ZtocAddUncompressedArchiveSize(b, out)
	flat.ZtocAddCompressionInfo(b, info)
	b.Finish(flat.ZtocEnd(b))
	return b.FinishedBytes()
}

// checkpoint is one of the checkpoints of a gzip layer on the wire, with an empty window.
func checkpoint(in, out int64, bits byte) []byte {
	p := make([]byte, checkpointSize)
	binary.LittleEndian.PutUint64(p, uint64(in))
	binary.LittleEndian.PutUint64(p[8:], uint64(out))
	p[16] = bits
	return p
}

// checkpoints is the blob that says it has n of them, and has these.
func checkpoints(n int32, spanSize int64, of ...[]byte) []byte {
	p := binary.LittleEndian.AppendUint32(nil, uint32(n))
	p = binary.LittleEndian.AppendUint64(p, uint64(spanSize))
	return append(p, slices.Concat(of...)...)
}

// TestWeakSpotS1 has 131,005 checkpoints in a blob of 31,641 bytes: in 32 bits the length is right, and
// what is read then is 4.3 GB.
func TestWeakSpotS1(t *testing.T) {
	const n, size = 131005, 31641
	if int64(n)*checkpointSize+checkpointHeader != 1<<32+size {
		t.Fatal("the length does not overflow")
	}
	blob := checkpoints(n, 1<<22, make([]byte, size-checkpointHeader))
	for name, digests := range map[string]int{"a digest for each": n, "three digests": 3} {
		rejected(t, name, craft(flat.CompressionAlgorithmGzip, digests, false, int32(digests-1), blob, 1<<30, 1<<30))
	}
	rejected(t, "one digest for all", craft(flat.CompressionAlgorithmGzip, n, true, n-1, blob, 1<<30, 1<<30))
	legacy := checkpoints(n+1, 1<<22, make([]byte, size-checkpointHeader)) // the first is implied
	rejected(t, "legacy", craft(flat.CompressionAlgorithmGzip, n+1, false, n, legacy, 1<<30, 1<<30))
}

// TestWeakSpotS2 has numbers that nothing bounds: as offsets, sizes, counts and divisors.
func TestWeakSpotS2(t *testing.T) {
	const gz, plain = flat.CompressionAlgorithmGzip, flat.CompressionAlgorithmUncompressed
	first := checkpoint(10, 0, 0)
	two := func(c []byte) []byte { return checkpoints(2, 1000, first, c) }
	tarZinfo := func(spanSize, size int64) []byte {
		b := flatbuffers.NewBuilder(0)
		flat.TarZinfoStart(b)
		flat.TarZinfoAddVersion(b, tarZinfoVersion)
		flat.TarZinfoAddSpanSize(b, spanSize)
		flat.TarZinfoAddSize(b, size)
		b.Finish(flat.TarZinfoEnd(b))
		return b.FinishedBytes()
	}
	good := craft(gz, 2, false, 1, two(checkpoint(1000, 1000, 0)), 2000, 2000)
	if _, err := Unmarshal(good); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string][]byte{
		"no checkpoints":                craft(gz, 0, false, -1, checkpoints(0, 1000), 2000, 2000),
		"no checkpoints, one digest":    craft(gz, 1, false, 0, checkpoints(0, 1000), 2000, 2000),
		"negative number":               craft(gz, 1, false, 0, checkpoints(-1, 1000, first), 2000, 2000),
		"max span id beyond the spans":  craft(gz, 2, false, math.MaxInt32, two(checkpoint(1000, 1000, 0)), 2000, 2000),
		"negative max span id":          craft(gz, 2, false, -1, two(checkpoint(1000, 1000, 0)), 2000, 2000),
		"in negative":                   craft(gz, 2, false, 1, two(checkpoint(-1, 1000, 0)), 2000, 2000),
		"in lowest with bits":           craft(gz, 2, false, 1, two(checkpoint(math.MinInt64, 1000, 1)), 2000, 2000),
		"in huge":                       craft(gz, 2, false, 1, two(checkpoint(math.MaxInt64, 1000, 0)), 2000, 2000),
		"in of the last span backwards": craft(gz, 2, false, 1, two(checkpoint(9, 1000, 0)), 2000, 2000),
		"out of the last span negative": craft(gz, 2, false, 1, two(checkpoint(1000, -1, 0)), 2000, 2000),
		"out of the last span huge":     craft(gz, 2, false, 1, two(checkpoint(1000, math.MaxInt64, 0)), 2000, 2000),
		"bits":                          craft(gz, 2, false, 1, two(checkpoint(1000, 1000, 255)), 2000, 2000),
		"bits before the first byte":    craft(gz, 1, false, 0, checkpoints(1, 1000, checkpoint(0, 0, 7)), 2000, 2000),
		"span size negative":            craft(gz, 1, false, 0, checkpoints(1, math.MinInt64, first), 2000, 2000),
		"sizes negative":                craft(gz, 1, false, 0, checkpoints(1, 1000, first), -1, -1),
		"sizes huge":                    craft(gz, 1, false, 0, checkpoints(1, 1000, first), math.MaxInt64, math.MaxInt64),
		"tar, span size 0":              craft(plain, 2, false, 1, tarZinfo(0, 2000), 2000, 2000),
		"tar, span size negative":       craft(plain, 2, false, 1, tarZinfo(-1, 2000), 2000, 2000),
		"tar, more spans than digests":  craft(plain, 2, false, 1, tarZinfo(1, 2000), 2000, 2000),
		"tar, fewer spans than digests": craft(plain, 9, false, 8, tarZinfo(1000, 2000), 2000, 2000),
		"tar, another size":             craft(plain, 2, false, 1, tarZinfo(1000, 1<<40), 2000, 2000),
		"tar, size huge":                craft(plain, 2, false, 1, tarZinfo(1<<62, math.MaxInt64), math.MaxInt64, math.MaxInt64),
	} {
		rejected(t, name, p)
	}
}

// TestWeakSpotS3 has spans whose bytes cannot become what the zTOC says they do: decoding them ends, with
// an error, and reads nothing beside them.
func TestWeakSpotS3(t *testing.T) {
	_, layer, z := storedLayer(t)
	last := len(z.ZInfo.Spans) - 1
	decode := func(name string, id int, src []byte, n int64) {
		t.Helper()
		bounded(t, uint64(2*n+1<<20), func() {
			dst := make([]byte, 0, 1)
			if n > 0 {
				dst = make([]byte, n)
			}
			var fe *FormatError
			if err := z.ZInfo.Decode(dst, id, src); !errors.As(err, &fe) {
				t.Errorf("%s: error %v", name, err)
			}
		})
	}
	s := &z.ZInfo.Spans[last]
	src := layer[s.In.Off:s.In.End()]
	s.Out.Len += 5000
	z.ZInfo.UncompressedSize += 5000
	decode("more than there is", last, slices.Clip(src), s.Out.Len)
	s.Out.Len -= 5000
	z.ZInfo.UncompressedSize -= 5000
	for n := 0; n < len(src); n += 1 + len(src)/50 {
		cut := slices.Clone(src[:n]) // behind it lies nothing to be read
		whole := s.In
		s.In.Len = int64(n)
		decode("cut short", last, cut, s.Out.Len)
		s.In = whole
	}
	for _, fill := range []byte{0, 0xff, 0x01, 0x05} {
		decode("all the same byte", last, bytes.Repeat([]byte{fill}, len(src)), s.Out.Len)
	}
	// Empty stored blocks for ever produce nothing.
	empty := bytes.Repeat([]byte{0, 0, 0, 0xff, 0xff}, 1+len(src)/5)
	s.Bits = 0
	decode("blocks of nothing", last, empty[:len(src)], s.Out.Len)
	// One bit of the shared byte is there, and then the layer ends.
	s.Bits, s.In.Len = 1, 1
	decode("one bit", last, []byte{0xff}, s.Out.Len)
}

// TestWeakSpotS5 has small files that say, or unpack to, a lot.
func TestWeakSpotS5(t *testing.T) {
	const gz = flat.CompressionAlgorithmGzip
	one := checkpoints(1, 1<<22, checkpoint(10, 0, 0))
	for name, p := range map[string][]byte{
		"expands a million times": craft(gz, 1, false, 0, one, 1<<20, 1<<40),
		"a span of 2 GiB":         craft(gz, 1, false, 0, one, 1<<30, 2<<30),
		"spans without digests":   craft(gz, 1, false, math.MaxInt32-1, one, 1<<30, 1<<30),
		"shared digests":          craft(gz, 1<<20, true, 1<<20-1, one, 1<<30, 1<<30),
	} {
		rejected(t, name, p)
	}
	// The compact form is compressed itself.
	for _, p := range storedCompact(t) {
		bounded(t, uint64(1024*len(p)+64<<20), func() {
			if _, err := OpenCompact(p); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := Unmarshal(make([]byte, MaxSize+1)); !errors.Is(err, ErrLimit) {
		t.Errorf("a zTOC that is too large: %v", err)
	}
	// A layer that is a bomb itself is indexed in the memory of any other.
	bomb := bombLayer(t, 96<<20)
	bounded(t, 64<<20, func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		z, err := Build(ctx, bytes.NewReader(bomb), BuildOptions{})
		if err == nil && z.ZInfo.UncompressedSize > maxInflated(int64(len(bomb))) {
			t.Errorf("%d bytes from %d", z.ZInfo.UncompressedSize, len(bomb))
		}
	})
}

// bombLayer is a layer of one file of n zeros.
func bombLayer(t *testing.T, n int64) []byte {
	t.Helper()
	var p bytes.Buffer
	z := gzip.NewWriter(&p)
	w := tar.NewWriter(z)
	err := w.WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Size: n})
	zeros := make([]byte, 1<<20)
	for ; n > 0 && err == nil; n -= int64(len(zeros)) {
		_, err = w.Write(zeros[:min(n, int64(len(zeros)))])
	}
	if err := errors.Join(err, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return p.Bytes()
}

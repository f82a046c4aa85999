// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// countReader counts what is read through it.
type countReader struct {
	r io.Reader
	n int64
}

func (c *countReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// checkTOC compares the TOC with what archive/tar says of the archive.
func checkTOC(t *testing.T, toc []ztoc.Entry, archive []byte) {
	t.Helper()
	c := &countReader{r: bytes.NewReader(archive)}
	r := tar.NewReader(c)
	for i := range toc {
		hdr, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		e := toc[i]
		if e.Name != hdr.Name || e.Linkname != hdr.Linkname || e.Offset != c.n || e.Size != hdr.Size || e.Mode != hdr.Mode ||
			int(e.UID) != hdr.Uid || int(e.GID) != hdr.Gid || e.Uname != hdr.Uname || e.Gname != hdr.Gname ||
			e.Devmajor != hdr.Devmajor || e.Devminor != hdr.Devminor || !e.ModTime.Equal(hdr.ModTime) || e.ModTime.Location() != time.UTC {
			t.Fatalf("entry %d: %+v at %d is not %+v at %d", i, e, e.Offset, hdr, c.n)
		}
		keys := slices.Sorted(maps.Keys(hdr.PAXRecords))
		if len(keys) != len(e.PAX) {
			t.Fatalf("entry %q: %d PAX records, want %d", e.Name, len(e.PAX), len(keys))
		}
		for i, k := range keys {
			if e.PAX[i] != (ztoc.Record{Key: k, Value: hdr.PAXRecords[k]}) {
				t.Fatalf("entry %q: PAX record %q", e.Name, e.PAX[i])
			}
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Fatalf("the archive goes on behind %d entries: %v", len(toc), err)
	}
}

// TestEncoders builds the layer of every encoder at many span sizes and decodes
// every span by itself, before and after a trip over the wire.
func TestEncoders(t *testing.T) {
	archive := mustTar(t, ztoctest.Files(3, 40), ztoctest.TarOptions{})
	for i, enc := range ztoctest.Encoders() {
		sizes := []int64{ztoc.EveryBlock, 64 << 10, 1 << 40}
		if i == 0 {
			sizes = append(sizes, 1, 4<<10, 1<<20)
		}
		t.Run(enc.Name, func(t *testing.T) {
			t.Parallel()
			if !enc.Available() {
				t.Skipf("%s is not installed", enc.Name)
			}
			layer, err := enc.Encode(archive)
			if err != nil {
				t.Fatal(err)
			}
			for _, size := range sizes {
				z := mustBuild(t, layer, ztoc.BuildOptions{SpanSize: size})
				checkPlacement(t, z.ZInfo, size)
				checkTOC(t, z.TOC, archive)
				p := mustMarshal(t, z)
				again := mustUnmarshal(t, p)
				if !reflect.DeepEqual(again.TOC, z.TOC) {
					t.Fatal("TOC differs after a trip over the wire")
				}
				checkSpans(t, again, layer, archive)
				if !bytes.Equal(mustMarshal(t, again), p) {
					t.Fatal("second marshal differs")
				}
			}
		})
	}
}

// checkPlacement holds the spans to the rule: the first at 0, each next one
// behind more than size bytes.
func checkPlacement(t *testing.T, z *ztoc.ZInfo, size int64) {
	t.Helper()
	if size == ztoc.EveryBlock {
		size = 0
	}
	if z.SpanSize != size {
		t.Fatalf("span size %d, want %d", z.SpanSize, size)
	}
	for i := range z.Spans {
		off := z.Spans[i].Out.Off
		if off == 0 {
			continue // an empty first block
		}
		if i == 0 || off-z.Spans[i-1].Out.Off <= size {
			t.Fatalf("span %d begins at %d: too early for span size %d", i, off, size)
		}
	}
}

func TestUncompressed(t *testing.T) {
	archive := mustTar(t, ztoctest.Files(4, 10), ztoctest.TarOptions{Prefix: "./"})
	for _, padding := range []int{0, 9216, 300000} {
		layer := append(slices.Clone(archive), make([]byte, padding)...)
		for _, size := range []int64{512, 1000, 64 << 10, 1 << 40, int64(len(layer)), int64(len(layer)) - 1} {
			z := mustBuild(t, layer, ztoc.BuildOptions{SpanSize: size})
			if z.ZInfo.Compression != ztoc.Uncompressed || z.ZInfo.UncompressedSize != int64(len(archive)) {
				t.Fatalf("%v of %d bytes, want uncompressed of %d", z.ZInfo.Compression, z.ZInfo.UncompressedSize, len(archive))
			}
			checkTOC(t, z.TOC, archive)
			checkSpans(t, z, layer, layer)
			p := mustMarshal(t, z)
			again := mustUnmarshal(t, p)
			if !reflect.DeepEqual(again, z) {
				t.Fatal("zTOC differs after a trip over the wire")
			}
			checkSpans(t, again, layer, layer)
		}
	}
	if _, err := ztoc.Build(t.Context(), bytes.NewReader(archive), ztoc.BuildOptions{SpanSize: ztoc.EveryBlock}); !errors.Is(err, ztoc.ErrUnsupported) {
		t.Errorf("a span per block of an uncompressed layer: %v, want ErrUnsupported", err)
	}
}

// TestPadding has zeros behind the tar, of whole spans too.
func TestPadding(t *testing.T) {
	files := append(ztoctest.Files(5, 0)[:17], ztoctest.Big(5, "big", 100000))
	plain := mustTar(t, files, ztoctest.TarOptions{})
	for _, padding := range []int{1, 9728, 300 << 10} {
		archive := mustTar(t, files, ztoctest.TarOptions{Padding: padding})
		for _, enc := range []ztoctest.Member{{Level: 6}, {Level: 0}, {Level: 6, FlushEvery: 5000}} {
			layer := mustGzip(t, archive, enc)
			for _, size := range []int64{ztoc.EveryBlock, 64 << 10} {
				z := mustBuild(t, layer, ztoc.BuildOptions{SpanSize: size})
				if z.ZInfo.UncompressedSize != int64(len(plain)) {
					t.Fatalf("uncompressed size %d, want %d", z.ZInfo.UncompressedSize, len(plain))
				}
				checkSpans(t, mustUnmarshal(t, mustMarshal(t, z)), layer, archive)
			}
		}
	}
}

// TestSmallReads must not matter.
func TestSmallReads(t *testing.T) {
	archive := mustTar(t, ztoctest.Files(6, 10), ztoctest.TarOptions{})
	layer := mustGzip(t, archive, ztoctest.Member{Level: 6})
	want := mustMarshal(t, mustBuild(t, layer, ztoc.BuildOptions{SpanSize: 64 << 10}))
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"one byte": iotest.OneByteReader, "half": iotest.HalfReader, "data with error": iotest.DataErrReader,
	} {
		z, err := ztoc.Build(t.Context(), wrap(bytes.NewReader(layer)), ztoc.BuildOptions{SpanSize: 64 << 10})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(mustMarshal(t, z), want) {
			t.Errorf("%s: zTOC differs", name)
		}
	}
}

// tiny is a layer small enough to try every fault at every byte.
func tiny(t testing.TB) (layer, archive []byte) {
	t.Helper()
	archive = mustTar(t, []ztoctest.File{
		{Header: tar.Header{Name: "a", Mode: 0o644}, Data: []byte("hello, hello, hello")},
		{Header: tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}},
	}, ztoctest.TarOptions{})
	layer, err := ztoctest.Members(archive, 700, ztoctest.Member{Level: 6, FlushEvery: 300, Name: "n", HeaderCRC: 1})
	if err != nil {
		t.Fatal(err)
	}
	return layer, archive
}

func TestTruncated(t *testing.T) {
	layer, archive := tiny(t)
	whole := mustMarshal(t, mustBuild(t, layer, ztoc.BuildOptions{SpanSize: 256}))
	checkSpans(t, mustUnmarshal(t, whole), layer, archive)
	for n := range layer {
		z, err := ztoc.Build(t.Context(), bytes.NewReader(layer[:n]), ztoc.BuildOptions{SpanSize: 256, Compression: ztoc.Gzip})
		if err == nil {
			// A member ends here, inside the tar: archive/tar, like others, does without end-of-archive marker.
			if plain, ok := readLayer(layer[:n]); !ok || z.ZInfo.UncompressedSize != int64(len(plain)) {
				t.Errorf("%d of %d bytes are a layer of %d", n, len(layer), z.ZInfo.UncompressedSize)
			}
			continue
		}
		if !errors.Is(err, ztoc.ErrFormat) {
			t.Errorf("%d of %d bytes: %v, want ErrFormat", n, len(layer), err)
		}
	}
}

// readLayer reads a layer with the standard library alone. It says whether that
// goes well, and returns what the gzip holds.
func readLayer(layer []byte) (plain []byte, ok bool) {
	z, err := gzip.NewReader(bytes.NewReader(layer))
	if err != nil {
		return nil, false
	}
	if plain, err = io.ReadAll(z); err != nil {
		return nil, false
	}
	r := tar.NewReader(bytes.NewReader(plain))
	for {
		if _, err := r.Next(); err != nil {
			return plain, err == io.EOF
		}
	}
}

// TestFlippedBit flips each bit of a layer: either something notices, or the bit
// meant nothing and the layer holds what it held.
func TestFlippedBit(t *testing.T) {
	layer, archive := tiny(t)
	noticed, tried := 0, 0
	for i := 0; i < 8*len(layer); i += 1 + i/700*2 { // every bit of the first headers and blocks, then every few
		tried++
		p := slices.Clone(layer)
		p[i/8] ^= 1 << (i % 8)
		z, err := ztoc.Build(t.Context(), bytes.NewReader(p), ztoc.BuildOptions{SpanSize: 256, Compression: ztoc.Gzip})
		if err != nil {
			noticed++
			var fe *ztoc.FormatError
			if !errors.As(err, &fe) {
				t.Errorf("bit %d flipped: %v, want a *FormatError", i, err)
			}
			continue
		}
		if plain, ok := readLayer(p); !ok || !bytes.Equal(plain, archive) {
			t.Fatalf("bit %d flipped: no error, but other contents", i)
		}
		checkSpans(t, z, p, archive)
	}
	if noticed < tried*3/4 {
		t.Errorf("only %d of %d flipped bits were noticed", noticed, tried)
	}
}

func TestBuildErrors(t *testing.T) {
	header := func(h tar.Header, data string) []byte {
		return mustTar(t, []ztoctest.File{{Header: h, Data: []byte(data)}}, ztoctest.TarOptions{})
	}
	// raw returns an archive of one entry whose type is changed behind the writer's back.
	raw := func(typ byte) []byte {
		p := header(tar.Header{Name: "odd", Format: tar.FormatUSTAR}, "")
		p[156] = typ
		seal(p)
		return p
	}
	sound := mustGzip(t, header(tar.Header{Name: "a"}, "a"), ztoctest.Member{Level: 6})
	for _, tt := range []struct {
		name  string
		layer []byte
		want  error
		text  string // in the message
	}{
		{"empty", nil, ztoc.ErrFormat, "layer"},
		{"one byte", []byte{0x1f}, ztoc.ErrFormat, "offset 0"},
		{"zstd", []byte("\x28\xb5\x2f\xfd...."), ztoc.ErrUnsupported, "zstd"},
		{"garbage", bytes.Repeat([]byte("garbage "), 200), ztoc.ErrFormat, "neither gzip nor tar"},
		{"trailing garbage", append(slices.Clone(sound), "garbage"...), ztoc.ErrFormat, "not a gzip member"},
		{"trailing zero", append(slices.Clone(sound), 0, 0), ztoc.ErrFormat, "not a gzip member"},
		{"method", append([]byte{0x1f, 0x8b, 9}, sound[3:]...), ztoc.ErrFormat, "method 9"},
		{"reserved flag", append([]byte{0x1f, 0x8b, 8, 0x80}, sound[4:]...), ztoc.ErrFormat, "reserved"},
		{"header checksum", mustGzip(t, nil, ztoctest.Member{Name: "x", HeaderCRC: 2}), ztoc.ErrFormat, "header checksum"},
		{"contiguous file", mustGzip(t, raw('7'), ztoctest.Member{Level: 6}), ztoc.ErrUnsupported, `"odd"`},
		{"GNU sparse file", mustGzip(t, raw('S'), ztoctest.Member{Level: 6}), nil, "tar"},
		{"global header", mustGzip(t, header(tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "global", PAXRecords: map[string]string{"comment": "x"}}, ""), ztoctest.Member{Level: 6}), ztoc.ErrUnsupported, "type 'g'"},
		{"owner", mustGzip(t, header(tar.Header{Name: "a", Uid: 1 << 33}, ""), ztoctest.Member{Level: 6}), ztoc.ErrUnsupported, "owner"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ztoc.Build(t.Context(), bytes.NewReader(tt.layer), ztoc.BuildOptions{})
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %q, want %q in a %v", err, tt.text, tt.want)
			}
		})
	}
}

func TestBuildReadError(t *testing.T) {
	layer, _ := tiny(t)
	broken := errors.New("cable cut")
	_, err := ztoc.Build(t.Context(), io.MultiReader(bytes.NewReader(layer[:200]), iotest.ErrReader(broken)), ztoc.BuildOptions{})
	if !errors.Is(err, broken) || errors.Is(err, ztoc.ErrFormat) {
		t.Errorf("error %v, want the reader's own", err)
	}
}

func TestBuildCancelled(t *testing.T) {
	// A bomb of zeros, read at once: the end of ctx must be seen inside it, before the fault at its end.
	layer := mustGzip(t, make([]byte, 8<<20), ztoctest.Member{Level: 1})
	layer[len(layer)-1] ^= 1
	ctx, cancel := context.WithCancel(t.Context())
	r := &cancelReader{r: bytes.NewReader(layer), cancel: cancel}
	if _, err := ztoc.Build(ctx, r, ztoc.BuildOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

// cancelReader cancels when the first bytes have been read.
type cancelReader struct {
	r      io.Reader
	cancel context.CancelFunc
}

func (c *cancelReader) Read(p []byte) (int, error) {
	defer c.cancel()
	return c.r.Read(p)
}

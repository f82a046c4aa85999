// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// mustSurvey surveys a layer; the survey is closed when the test ends.
func mustSurvey(t testing.TB, r io.Reader, opts ztoc.SurveyOptions) *ztoc.Survey {
	t.Helper()
	s, err := ztoc.NewSurvey(t.Context(), r, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// entries returns all entries of s.
func entries(t testing.TB, s *ztoc.Survey) []ztoc.Entry {
	t.Helper()
	var toc []ztoc.Entry
	for i, e := range s.Entries() {
		if i != len(toc) {
			t.Fatalf("entry %d comes as %d", len(toc), i)
		}
		toc = append(toc, e)
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return toc
}

// checkSurvey compares a survey of layer with what Build makes of it.
func checkSurvey(t *testing.T, layer, plain []byte, opts ztoc.BuildOptions) {
	t.Helper()
	z := mustBuild(t, layer, opts)
	s := mustSurvey(t, bytes.NewReader(layer), ztoc.SurveyOptions{BuildOptions: opts})
	var got bytes.Buffer
	if err := s.WriteZTOC(&got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), mustMarshal(t, z)) {
		t.Fatal("zTOC differs")
	}
	layerSum, diffID := sha256.Sum256(layer), sha256.Sum256(plain)
	if got, want := s.LayerDigest().Encoded(), hex.EncodeToString(layerSum[:]); got != want {
		t.Errorf("layer digest %s, want %s", got, want)
	}
	if got, want := s.DiffID().Encoded(), hex.EncodeToString(diffID[:]); got != want {
		t.Errorf("diffID %s, want %s", got, want)
	}
	if toc := entries(t, s); !reflect.DeepEqual(toc, z.TOC) || s.Len() != len(toc) {
		t.Error("entries differ")
	}
	if s.CompressedSize() != z.ZInfo.CompressedSize || s.UncompressedSize() != z.ZInfo.UncompressedSize || s.Spans() != len(z.ZInfo.Spans) {
		t.Errorf("sizes %d, %d, %d spans", s.CompressedSize(), s.UncompressedSize(), s.Spans())
	}
}

// TestSurvey compares surveys with zTOCs of all encoders and span sizes.
func TestSurvey(t *testing.T) {
	small := mustTar(t, ztoctest.Files(3, 40), ztoctest.TarOptions{Padding: 9728})
	large := mustTar(t, ztoctest.Files(3, 300), ztoctest.TarOptions{Padding: 9728})
	for i, enc := range ztoctest.Encoders() {
		t.Run(enc.Name, func(t *testing.T) {
			t.Parallel()
			if !enc.Available() {
				t.Skipf("%s is not installed", enc.Name)
			}
			archive, sizes := small, []int64{ztoc.EveryBlock, 64 << 10}
			if i == 0 { // more pieces than a pass has
				archive, sizes = large, []int64{ztoc.EveryBlock, 64 << 10, 1 << 20, 1 << 40}
			}
			layer, err := enc.Encode(archive)
			if err != nil {
				t.Fatal(err)
			}
			for _, size := range sizes {
				checkSurvey(t, layer, archive, ztoc.BuildOptions{SpanSize: size, BuildTool: "a tool"})
			}
		})
	}
	for _, size := range []int64{512, 100000, 1 << 40} {
		checkSurvey(t, large, large, ztoc.BuildOptions{SpanSize: size})
	}
	odd := oddHeaders()
	checkSurvey(t, odd, odd, ztoc.BuildOptions{})
}

// manyFiles writes an archive of n empty files while it is read.
func manyFiles(n int) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		buf := bufio.NewWriterSize(w, 1<<20)
		t := tar.NewWriter(buf)
		for i := range n {
			h := tar.Header{Name: fmt.Sprintf("usr/lib/node_modules/package-%d/lib/file-%d.js", i/20, i), Mode: 0o644, ModTime: time.Unix(1700000000+int64(i), 0)}
			if err := t.WriteHeader(&h); err != nil {
				w.CloseWithError(err)
				return
			}
		}
		w.CloseWithError(errors.Join(t.Close(), buf.Flush()))
	}()
	return r
}

// TestSurveyManyFiles has more entries than stay in memory.
func TestSurveyManyFiles(t *testing.T) {
	const n = 60000
	z, err := ztoc.Build(t.Context(), manyFiles(n), ztoc.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s := mustSurvey(t, manyFiles(n), ztoc.SurveyOptions{})
	if toc := entries(t, s); len(toc) != n || !reflect.DeepEqual(toc, z.TOC) {
		t.Fatalf("%d entries differ", len(toc))
	}
	for i := range s.Entries() {
		if i == n/2 {
			break
		}
	}
	var got bytes.Buffer
	if err := errors.Join(s.Err(), s.WriteZTOC(&got)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), mustMarshal(t, z)) {
		t.Error("zTOC differs")
	}
}

// TestFloods has layers that consist of next to nothing: members and blocks
// without data, more of them than any buffer holds.
func TestFloods(t *testing.T) {
	archive := mustTar(t, ztoctest.Files(3, 0), ztoctest.TarOptions{})
	head := mustGzip(t, archive, ztoctest.Member{Level: 6})
	empty := mustGzip(t, nil, ztoctest.Member{Level: 6})
	header := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}
	stored, final := []byte{0, 0, 0, 0xff, 0xff}, []byte{1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0}
	for name, layer := range map[string][]byte{
		"members":         slices.Concat(head, bytes.Repeat(empty, 200000)),
		"blocks":          slices.Concat(head, header, bytes.Repeat(stored, 1<<20), final),
		"blocks in front": slices.Concat(header, bytes.Repeat(stored, 20000), final, head),
	} {
		t.Run(name, func(t *testing.T) {
			s := mustSurvey(t, bytes.NewReader(layer), ztoc.SurveyOptions{})
			want := sha256.Sum256(archive)
			if got := s.DiffID().Encoded(); got != hex.EncodeToString(want[:]) {
				t.Errorf("diffID %s", got)
			}
		})
	}
}

// checkGoroutines fails unless the number of goroutines goes back to before.
func checkGoroutines(t *testing.T, before int) {
	t.Helper()
	for range 1000000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		runtime.Gosched() // one that has ended may not be gone yet
	}
	buf := make([]byte, 64<<10)
	t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
}

// bigLayer is a layer of several chunks and pieces, in two members.
func bigLayer(t testing.TB) (layer, archive []byte, second int) {
	t.Helper()
	archive = mustTar(t, []ztoctest.File{ztoctest.Big(1, "a", 3<<20), ztoctest.Big(2, "b", 5<<20)}, ztoctest.TarOptions{})
	first := mustGzip(t, archive[:4<<20], ztoctest.Member{Level: 6})
	return append(first, mustGzip(t, archive[4<<20:], ztoctest.Member{Level: 1})...), archive, len(first)
}

// TestSurveyFaults holds that of any fault the place is told, that the first in the
// layer counts, and that nothing goes on behind it.
func TestSurveyFaults(t *testing.T) {
	layer, _, second := bigLayer(t)
	flip := func(off int) []byte {
		p := bytes.Clone(layer)
		p[off] ^= 1
		return p
	}
	endless := readerFunc(func(p []byte) (int, error) { clear(p); return len(p), nil })
	before := runtime.NumGoroutine()
	for name, tt := range map[string]struct {
		r    io.Reader
		off  int64
		text string
	}{
		"first trailer":    {bytes.NewReader(flip(second - 8)), int64(second) - 8, "gzip trailer"},
		"first length":     {bytes.NewReader(flip(second - 1)), int64(second) - 4, "gzip trailer"},
		"second trailer":   {bytes.NewReader(flip(len(layer) - 5)), int64(len(layer)) - 8, "gzip trailer"},
		"second header":    {bytes.NewReader(flip(second)), int64(second), "gzip layer"},
		"both":             {bytes.NewReader(append(flip(second-8), 1)), int64(second) - 8, "gzip trailer"},
		"trailing garbage": {io.MultiReader(bytes.NewReader(layer), endless), int64(len(layer)), "gzip layer"},
		"cut in trailer":   {bytes.NewReader(layer[:len(layer)-1]), int64(len(layer)) - 8, "gzip trailer"},
		"cut in data":      {bytes.NewReader(layer[:len(layer)-9]), int64(len(layer)) - 9, "deflate stream"},
		"cut in header":    {bytes.NewReader(layer[:second+5]), int64(second), "gzip header"},
		"cut tar":          {bytes.NewReader(layer[:second]), 4 << 20, "tar data"},
	} {
		t.Run(name, func(t *testing.T) {
			var fe *ztoc.FormatError
			_, err := ztoc.NewSurvey(t.Context(), tt.r, ztoc.SurveyOptions{})
			if !errors.As(err, &fe) || fe.Off != tt.off || fe.Field != tt.text {
				t.Errorf("error %v, want %s at %d", err, tt.text, tt.off)
			}
		})
	}
	checkGoroutines(t, before)
}

// TestSurveyCancelled ends the context after every so many bytes.
func TestSurveyCancelled(t *testing.T) {
	layer, _, _ := bigLayer(t)
	before := runtime.NumGoroutine()
	for n := 0; n < len(layer); n += len(layer) / 7 {
		ctx, cancel := context.WithCancel(t.Context())
		at := &cancelReader{r: bytes.NewReader(nil), cancel: cancel}
		r := io.MultiReader(bytes.NewReader(layer[:n]), at, bytes.NewReader(layer[n:]))
		if _, err := ztoc.NewSurvey(ctx, r, ztoc.SurveyOptions{}); !errors.Is(err, context.Canceled) || errors.Is(err, ztoc.ErrFormat) {
			t.Errorf("after %d bytes: %v", n, err)
		}
		cancel()
	}
	checkGoroutines(t, before)
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestSurveyPanic has a reader that panics: the caller gets it, and nobody stays behind.
func TestSurveyPanic(t *testing.T) {
	before := runtime.NumGoroutine()
	func() {
		defer func() {
			if e := recover(); e != "reader" {
				t.Errorf("recovered %v", e)
			}
		}()
		layer, _, _ := bigLayer(t)
		r := readerFunc(func([]byte) (int, error) { panic("reader") })
		_, err := ztoc.NewSurvey(t.Context(), io.MultiReader(bytes.NewReader(layer[:1<<20]), r), ztoc.SurveyOptions{})
		t.Errorf("no panic, error %v", err)
	}()
	checkGoroutines(t, before)
}

// TestSpanLimit refuses a span that Unmarshal would not take.
func TestSpanLimit(t *testing.T) {
	const n = 17
	zeros := make([]byte, 64<<20)
	one := mustGzip(t, zeros, ztoctest.Member{Level: 1})
	hdr := rawEntry('0', "zeros", "")
	copy(hdr[124:], fmt.Sprintf("%011o\x00", n*len(zeros)))
	seal(hdr)
	layer := []io.Reader{bytes.NewReader(mustGzip(t, hdr, ztoctest.Member{Level: 1}))}
	for range n {
		layer = append(layer, bytes.NewReader(one))
	}
	layer = append(layer, bytes.NewReader(mustGzip(t, make([]byte, 1024), ztoctest.Member{Level: 1})))
	_, err := ztoc.Build(t.Context(), io.MultiReader(layer...), ztoc.BuildOptions{SpanSize: 1 << 40})
	if !errors.Is(err, ztoc.ErrLimit) {
		t.Errorf("error %v, want ErrLimit", err)
	}
}

// TestSurveyCancelLate cancels when all has been read, but not digested.
func TestSurveyCancelLate(t *testing.T) {
	archive := mustTar(t, []ztoctest.File{ztoctest.Big(1, "big", 200000)}, ztoctest.TarOptions{})
	layer := mustGzip(t, archive, ztoctest.Member{Level: 1})
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		r := io.MultiReader(bytes.NewReader(layer), &cancelReader{r: bytes.NewReader(nil), cancel: cancel})
		s, err := ztoc.NewSurvey(ctx, r, ztoc.SurveyOptions{BuildOptions: ztoc.BuildOptions{SpanSize: 10000}})
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			continue
		}
		if s.LayerDigest() != digest.FromBytes(layer) || s.DiffID() != digest.FromBytes(archive) {
			t.Fatal("a survey with other digests")
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

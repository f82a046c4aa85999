// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// gunzip inflates what r delivers with a reader that is closed.
func gunzip(t *testing.T, r io.Reader) ([]byte, error) {
	t.Helper()
	g := ztoc.NewGzipReader(t.Context(), r)
	var b bytes.Buffer
	_, err := io.Copy(&b, g)
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	return b.Bytes(), err
}

func TestGzipReader(t *testing.T) {
	plain := mustTar(t, []ztoctest.File{ztoctest.Big(1, "big", 700<<10)}, ztoctest.TarOptions{})
	for _, enc := range ztoctest.Encoders() {
		if !enc.Available() {
			continue // TestEncoders says so
		}
		layer, err := enc.Encode(plain)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := gunzip(t, bytes.NewReader(layer)); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: %d bytes, %v", enc.Name, len(got), err)
		}
	}
	layer := mustGzip(t, plain, ztoctest.Member{Level: 6})
	g := ztoc.NewGzipReader(t.Context(), iotest.OneByteReader(bytes.NewReader(layer)))
	defer g.Close()
	if err := iotest.TestReader(g, plain); err != nil {
		t.Error(err)
	}
}

func TestGzipReaderErrors(t *testing.T) {
	plain := bytes.Repeat([]byte("some bytes of a layer "), 100000)
	layer := mustGzip(t, plain, ztoctest.Member{Level: 6})
	flipped := bytes.Clone(layer)
	flipped[len(flipped)-6] ^= 1 // of the checksum
	for name, p := range map[string][]byte{
		"empty": nil, "cut": layer[:len(layer)-1], "cut early": layer[:len(layer)/2], "checksum": flipped,
		"trailing bytes": append(bytes.Clone(layer), 1, 2, 3), "no gzip": plain,
	} {
		if got, err := gunzip(t, bytes.NewReader(p)); !errors.Is(err, ztoc.ErrFormat) || !bytes.HasPrefix(plain, got) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	broken := errors.New("broken")
	got, err := gunzip(t, io.MultiReader(bytes.NewReader(layer[:len(layer)/2]), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) || errors.Is(err, ztoc.ErrFormat) || !bytes.HasPrefix(plain, got) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestGzipReaderClose closes readers that have not come to the end, and ends contexts.
func TestGzipReaderClose(t *testing.T) {
	plain := make([]byte, 64<<20) // far more than is inflated ahead
	layer := mustGzip(t, plain, ztoctest.Member{Level: 1})
	for range 20 {
		g := ztoc.NewGzipReader(t.Context(), bytes.NewReader(layer))
		if n, err := g.Read(make([]byte, 10)); n != 10 || err != nil {
			t.Fatal(n, err)
		}
		g.Close()
		if _, err := io.Copy(io.Discard, g); err == nil {
			t.Fatal("read on when closed")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	g := ztoc.NewGzipReader(ctx, bytes.NewReader(layer))
	defer g.Close()
	cancel()
	if _, err := io.Copy(io.Discard, g); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestGzipReaderPanic contains what the layer's reader does.
func TestGzipReaderPanic(t *testing.T) {
	g := ztoc.NewGzipReader(t.Context(), panicReader{})
	if _, err := io.Copy(io.Discard, g); err == nil || errors.Is(err, context.Canceled) || errors.Is(err, ztoc.ErrFormat) {
		t.Errorf("read: %v", err)
	}
	if err := g.Close(); err == nil {
		t.Error("close: no error")
	}
}

type panicReader struct{}

func (panicReader) Read([]byte) (int, error) { panic("on the way") }

// TestCheckTOC holds zTOCs of both formats to tars.
func TestCheckTOC(t *testing.T) {
	plain := mustTar(t, ztoctest.Files(4, 300), ztoctest.TarOptions{})
	other := mustTar(t, ztoctest.Files(5, 300), ztoctest.TarOptions{})
	layer := mustGzip(t, plain, ztoctest.Member{Level: 6})
	s := mustSurvey(t, bytes.NewReader(layer), ztoc.SurveyOptions{CompactSpanSize: ztoc.DefaultCompactSpanSize})
	defer s.Close()
	for name, write := range map[string]func(io.Writer) error{"0.9": s.WriteZTOC, "compact": s.WriteCompact} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		r := mustOpen(t, b.Bytes())
		if faults, err := r.CheckTOC(t.Context(), iotest.HalfReader(bytes.NewReader(plain))); err != nil || len(faults) > 0 {
			t.Errorf("%s: %v, %v", name, faults, err)
		}
		if faults, err := r.CheckTOC(t.Context(), bytes.NewReader(other)); err != nil || len(faults) == 0 {
			t.Errorf("%s: of another tar: %v, %v", name, faults, err)
		}
		if faults, err := r.CheckTOC(t.Context(), bytes.NewReader(plain[:len(plain)/1024*512])); err == nil && len(faults) == 0 {
			t.Errorf("%s: half a tar is right", name)
		}
		if _, err := r.CheckTOC(t.Context(), bytes.NewReader(bytes.Repeat([]byte("x"), 4096))); !errors.Is(err, ztoc.ErrFormat) {
			t.Errorf("%s: of no tar: %v", name, err)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// checkLayer is a layer of several spans, and its zTOCs of both formats.
func checkLayer(t testing.TB, compression ztoc.Compression) (layer, archive []byte, z, c []byte) {
	t.Helper()
	archive = mustTar(t, ztoctest.Files(1, 10), ztoctest.TarOptions{Padding: 20 << 10})
	layer = archive
	if compression == ztoc.Gzip {
		layer = mustGzip(t, archive, ztoctest.Member{Level: 6})
	}
	s := mustSurvey(t, bytes.NewReader(layer), ztoc.SurveyOptions{
		BuildOptions: ztoc.BuildOptions{SpanSize: 64 << 10}, CompactSpanSize: 64 << 10,
	})
	var out [2]bytes.Buffer
	if err := errors.Join(s.WriteZTOC(&out[0]), s.WriteCompact(&out[1])); err != nil {
		t.Fatal(err)
	}
	return layer, archive, out[0].Bytes(), out[1].Bytes()
}

func mustOpen(t testing.TB, p []byte) *ztoc.Reader {
	t.Helper()
	r, err := ztoc.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustCheck(t testing.TB, r *ztoc.Reader, layer []byte, opts ztoc.CheckOptions) *ztoc.Checked {
	t.Helper()
	c, err := r.Check(t.Context(), bytes.NewReader(layer), opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCheckGood(t *testing.T) {
	for _, compression := range []ztoc.Compression{ztoc.Gzip, ztoc.Uncompressed} {
		layer, archive, z, c := checkLayer(t, compression)
		want := ztoc.CheckOptions{LayerDigest: digest.FromBytes(layer), DiffID: digest.FromBytes(archive)}
		sha512 := want
		sha512.LayerDigest = digest.SHA512.FromBytes(layer)
		sha512.DiffID = digest.SHA512.FromBytes(archive)
		for _, p := range [][]byte{z, c} {
			r := mustOpen(t, p)
			for _, opts := range []ztoc.CheckOptions{{}, want, sha512} {
				got := mustCheck(t, r, layer, opts)
				if len(got.Faults) > 0 || got.LayerDigest != want.LayerDigest || got.DiffID != want.DiffID {
					t.Errorf("%s, %s: %+v", compression, r.Format(), got)
				}
				if got.Spans < 5 || got.Spans != len(r.ZInfo().Spans) || got.Entries < 10 || got.Entries != r.Len() ||
					got.CompressedSize != int64(len(layer)) || got.UncompressedSize != r.ZInfo().UncompressedSize {
					t.Errorf("%s, %s: %+v", compression, r.Format(), got)
				}
			}
		}
	}
}

// TestCheckFaults holds that each fault of a zTOC is told, with its place, and nothing else.
func TestCheckFaults(t *testing.T) {
	layer, archive, p, _ := checkLayer(t, ztoc.Gzip)
	file := func(z *ztoc.ZTOC) *ztoc.Entry {
		for i := range z.TOC {
			if e := &z.TOC[i]; e.Type == ztoc.TypeReg && e.Size > 1000 {
				return e
			}
		}
		t.Fatal("no file")
		return nil
	}
	for name, c := range map[string]struct {
		spoil func(z *ztoc.ZTOC)
		opts  ztoc.CheckOptions
		want  []string // regular parts of the faults, one each
	}{
		"none":          {want: nil},
		"span digest":   {spoil: func(z *ztoc.ZTOC) { z.ZInfo.Spans[2].Sum[0] ^= 1 }, want: []string{"verify span 2: digest mismatch"}},
		"window":        {spoil: func(z *ztoc.ZTOC) { spoilWindow(z.ZInfo) }, want: []string{"span 1: decodes to other bytes than the layer has at offset "}},
		"name":          {spoil: func(z *ztoc.ZTOC) { file(z).Name = "x" }, want: []string{`: name is "x", in the layer "`}},
		"long name":     {spoil: func(z *ztoc.ZTOC) { file(z).Name = strings.Repeat("x", 300) }, want: []string{`: name is "xxx`}},
		"size":          {spoil: func(z *ztoc.ZTOC) { file(z).Size-- }, want: []string{`: size is `}},
		"offset":        {spoil: func(z *ztoc.ZTOC) { file(z).Offset += 512; file(z).Size -= 512 }, want: []string{`: offset is `}},
		"mode":          {spoil: func(z *ztoc.ZTOC) { file(z).Mode ^= 0o4000 }, want: []string{`: mode is `}},
		"owner":         {spoil: func(z *ztoc.ZTOC) { file(z).UID++ }, want: []string{`: user is `}},
		"group":         {spoil: func(z *ztoc.ZTOC) { file(z).GID++ }, want: []string{`: group is `}},
		"time":          {spoil: func(z *ztoc.ZTOC) { file(z).ModTime = time.Unix(1, 0) }, want: []string{`: time is 1970-01-01 00:00:01`}},
		"time zone":     {spoil: func(z *ztoc.ZTOC) { file(z).ModTime = file(z).ModTime.In(time.FixedZone("", 3600)) }, want: nil},
		"xattr":         {spoil: func(z *ztoc.ZTOC) { file(z).PAX = []ztoc.Record{{Key: "a", Value: "b"}} }, want: []string{`: PAX records differ`}},
		"entry missing": {spoil: func(z *ztoc.ZTOC) { z.TOC = z.TOC[:len(z.TOC)-1] }, want: []string{"the layer has "}},
		"entry more": {spoil: func(z *ztoc.ZTOC) {
			z.TOC = append(z.TOC, ztoc.Entry{Name: "x", Type: ztoc.TypeDir, Offset: z.ZInfo.UncompressedSize - 512})
		}, want: []string{"the layer has "}},
		"digest":     {opts: ztoc.CheckOptions{LayerDigest: digest.FromString("x")}, want: []string{"the layer has digest " + digest.FromBytes(layer).String() + ", not "}},
		"digest 512": {opts: ztoc.CheckOptions{LayerDigest: digest.SHA512.FromString("x")}, want: []string{"the layer does not have the digest sha512:"}},
		"diffID":     {opts: ztoc.CheckOptions{DiffID: digest.FromString("x")}, want: []string{"the layer has diffID " + digest.FromBytes(archive).String() + ", not "}},
		"two": {spoil: func(z *ztoc.ZTOC) {
			z.ZInfo.Spans[0].Sum[0] ^= 1
			z.ZInfo.Spans[3].Sum[0] ^= 1
		}, want: []string{"verify span 0", "verify span 3"}},
	} {
		z := mustUnmarshal(t, p)
		if c.spoil != nil {
			c.spoil(z)
		}
		r := mustOpen(t, mustMarshal(t, z))
		got := mustCheck(t, r, layer, c.opts).Faults
		ok := len(got) == len(c.want)
		for i := 0; ok && i < len(got); i++ {
			ok = strings.Contains(got[i].Error(), c.want[i]) && !strings.Contains(got[i].Error(), "\n")
		}
		if !ok {
			t.Errorf("%s: faults %q, want %q", name, got, c.want)
		}
	}
}

// spoilWindow changes all of the history of span 1, so that whatever it refers to is wrong.
func spoilWindow(z *ztoc.ZInfo) {
	w := bytes.Clone(z.Spans[1].Window)
	for i := range w {
		w[i] ^= 1
	}
	z.Spans[1].Window = w
}

// TestCheckOtherLayer holds that a zTOC of another layer is told from one of this.
func TestCheckOtherLayer(t *testing.T) {
	_, _, z, c := checkLayer(t, ztoc.Gzip)
	archive := mustTar(t, ztoctest.Files(2, 30), ztoctest.TarOptions{})
	for _, p := range [][]byte{z, c} {
		r := mustOpen(t, p)
		got := mustCheck(t, r, mustGzip(t, archive, ztoctest.Member{Level: 6}), ztoc.CheckOptions{}).Faults
		if s := fmt.Sprint(got); len(got) < 16 || !strings.Contains(s, "verify span 0: ") || !strings.Contains(s, "the layer has size") {
			t.Errorf("%s: faults %s", r.Format(), s)
		}
		short := mustCheck(t, r, mustGzip(t, archive[len(archive)-1024:], ztoctest.Member{Level: 6}), ztoc.CheckOptions{}).Faults
		if s := fmt.Sprint(short); !strings.Contains(s, "are not in the layer") {
			t.Errorf("%s, empty layer: faults %s", r.Format(), s)
		}
	}
}

// TestCheckBadLayer holds that a layer that is not sound, or cannot be read, is an error, and nothing goes on behind it.
func TestCheckBadLayer(t *testing.T) {
	layer, _, z, c := checkLayer(t, ztoc.Gzip)
	gone := errors.New("gone")
	flipped := bytes.Clone(layer)
	flipped[len(flipped)/2] ^= 0x10
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, p := range [][]byte{z, c} {
		r := mustOpen(t, p)
		for _, opts := range []ztoc.CheckOptions{{LayerDigest: "x"}, {DiffID: "md9:00"}} {
			if _, err := r.Check(t.Context(), bytes.NewReader(layer), opts); err == nil {
				t.Errorf("%+v is taken", opts)
			}
		}
		if _, err := r.Check(t.Context(), bytes.NewReader(flipped), ztoc.CheckOptions{}); !errors.Is(err, ztoc.ErrFormat) {
			t.Errorf("flipped: %v", err)
		}
		if _, err := r.Check(t.Context(), bytes.NewReader(layer[:len(layer)/2]), ztoc.CheckOptions{}); !errors.Is(err, ztoc.ErrFormat) {
			t.Errorf("cut: %v", err)
		}
		n := 0
		failing := readerFunc(func(p []byte) (int, error) {
			if n++; n > 3 {
				return 0, gone
			}
			return copy(p[:100], layer[100*(n-1):]), nil
		})
		if _, err := r.Check(t.Context(), failing, ztoc.CheckOptions{}); !errors.Is(err, gone) {
			t.Errorf("failing: %v", err)
		}
		if _, err := r.Check(cancelled, bytes.NewReader(layer), ztoc.CheckOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	}
}

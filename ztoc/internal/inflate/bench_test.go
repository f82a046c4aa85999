// SPDX-License-Identifier: Apache-2.0

package inflate

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"hash/crc32"
	"io"
	"os"
	"testing"
)

// BenchmarkFile inflates the gzip file that INFLATE_FILE names, of one member
// with a plain header, as a stream: in pieces of 1 MiB, CRC-32 included.
func BenchmarkFile(b *testing.B) {
	name := os.Getenv("INFLATE_FILE")
	if name == "" {
		b.Skip("INFLATE_FILE is not set")
	}
	src, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	var d Decoder
	buf := make([]byte, WindowSize+1<<20+1<<10)
	var total int64
	for b.Loop() {
		total = 0
		var sum uint32
		d.Reset(0)
		pos, in := 0, 10
		for {
			start := pos
			var stop Stop
			pos, in, stop, err = d.Decode(buf, pos, WindowSize+1<<20, src, in, true)
			if err != nil {
				b.Fatal(err, in, total)
			}
			sum = crc32.Update(sum, crc32.IEEETable, buf[start:pos])
			total += int64(pos - start)
			if stop == StreamEnd {
				break
			}
			if stop == NeedOutput {
				copy(buf, buf[pos-WindowSize:pos])
				pos = WindowSize
			}
		}
		t := src[in:]
		if want := uint32(t[0]) | uint32(t[1])<<8 | uint32(t[2])<<16 | uint32(t[3])<<24; want != sum {
			b.Fatalf("CRC %08x, want %08x", sum, want)
		}
	}
	b.SetBytes(total)
}

func BenchmarkStd(b *testing.B) {
	name := os.Getenv("INFLATE_FILE")
	if name == "" {
		b.Skip("INFLATE_FILE is not set")
	}
	src, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		r, _ := gzip.NewReader(bytes.NewReader(src))
		n, _ := io.Copy(io.Discard, r)
		b.SetBytes(n)
	}
}

// BenchmarkHeader reads the header of a block of text, and makes its tables.
func BenchmarkHeader(b *testing.B) {
	text, err := os.ReadFile("table.go")
	if err != nil {
		b.Fatal(err)
	}
	var src bytes.Buffer
	w, err := flate.NewWriter(&src, 6)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		b.Fatal(err)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	var d Decoder
	for b.Loop() {
		if err := d.ResumeBlock(src.Bytes(), 0, 0); err != nil {
			b.Fatal(err)
		}
	}
	if p, n := d.Header(); n < 500 || len(p) < n/8 {
		b.Fatalf("a header of %d bits", n)
	}
}

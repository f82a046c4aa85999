// SPDX-License-Identifier: Apache-2.0

package inflate_test

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	kflate "github.com/klauspost/compress/flate"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestEncoders inflates what every encoder makes of every kind of data.
func TestEncoders(t *testing.T) {
	const size = 40000
	f := newFollower(t, 2*size) // random bytes grow
	for _, e := range ztoctest.Encoders() {
		t.Run(e.Name, func(t *testing.T) {
			if !e.Available() {
				t.Skipf("%s is not installed", e.Name)
			}
			f.TB = t
			for i, c := range ztoctest.Contents(1, size) {
				layer, err := e.Encode(c.Data)
				if err != nil {
					t.Fatal(err)
				}
				if got := f.members(layer, uint64(i)); !bytes.Equal(got, c.Data) {
					t.Fatalf("%s: other bytes", c.Name)
				}
			}
		})
	}
}

// members follows the members of a gzip file and returns their contents.
func (f *follower) members(layer []byte, seed uint64) (plain []byte) {
	f.Helper()
	r := rand.New(rand.NewPCG(seed, 4))
	for len(layer) > 0 {
		src := layer[gzipHeader(layer):]
		tr := inflateSlowly(src, 0, nil, f.outputs.size())
		if tr.err != nil {
			f.Fatalf("the oracle: %v", tr.err)
		}
		f.start(src, 0, tr, plan{slack: 500})
		f.start(src, 0, tr, randomPlan(r, tr))
		f.everyPlace(r, src, tr, 8)
		plain = append(plain, tr.out...)
		layer = src[(tr.bit+7)/8+8:]
	}
	return plain
}

// gzipHeader is the length of the header that p begins with (RFC 1952).
func gzipHeader(p []byte) int {
	n := 10
	if p[3]&(1<<2) != 0 {
		n += 2 + int(binary.LittleEndian.Uint16(p[n:]))
	}
	for _, field := range []int{3, 4} { // the name and the comment
		if p[3]>>field&1 != 0 {
			n += bytes.IndexByte(p[n:], 0) + 1
		}
	}
	if p[3]&(1<<1) != 0 {
		n += 2
	}
	return n
}

// TestLevels inflates what Go's encoders make at each level of more data than a
// window, in a buffer like that of a stream: a history and a piece behind it.
func TestLevels(t *testing.T) {
	const size = 300000
	type open func(w io.Writer, level int) (io.WriteCloser, error)
	for name, open := range map[string]open{
		"compress/flate":  func(w io.Writer, level int) (io.WriteCloser, error) { return flate.NewWriter(w, level) },
		"klauspost/flate": func(w io.Writer, level int) (io.WriteCloser, error) { return kflate.NewWriter(w, level) },
	} {
		for level := flate.HuffmanOnly; level <= flate.BestCompression; level++ {
			for _, c := range ztoctest.Contents(2, size) {
				var src bytes.Buffer
				w, err := open(&src, level)
				if err == nil {
					_, err = w.Write(c.Data)
				}
				if err == nil {
					err = w.Close()
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := slide(src.Bytes(), c.Data); err != nil {
					t.Errorf("%s, level %d, %s: %v", name, level, c.Name, err)
				}
			}
		}
	}
}

// slide inflates src in a buffer that slides along the output, which is to be plain.
func slide(src, plain []byte) error {
	var d inflate.Decoder
	d.Reset(0)
	const piece = 50000
	buf := make([]byte, inflate.WindowSize+piece+300)
	for pos, in, done := 0, 0, 0; ; {
		start := pos
		var stop inflate.Stop
		var err error
		pos, in, stop, err = d.Decode(buf, pos, inflate.WindowSize+piece, src, in, true)
		if err != nil {
			return err
		}
		n := pos - start
		if n > len(plain)-done || !bytes.Equal(buf[start:pos], plain[done:done+n]) {
			return fmt.Errorf("other bytes from %d to %d", done, done+n)
		}
		if done += n; stop == inflate.StreamEnd {
			if in != len(src) || done != len(plain) {
				return fmt.Errorf("ends at byte %d, output %d, want %d, %d", in, done, len(src), len(plain))
			}
			return nil
		}
		if pos >= inflate.WindowSize+piece {
			copy(buf, buf[pos-inflate.WindowSize:pos])
			pos = inflate.WindowSize
		}
	}
}

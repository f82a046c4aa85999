// SPDX-License-Identifier: Apache-2.0

package klauspost_test

import (
	"bufio"
	"bytes"
	"compress/flate"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/seekoci/seekoci/ztoc/internal/klauspost"
)

// blocks returns a stream of many blocks, stored ones, fixed and dynamic ones at
// odd bit positions, and what it inflates to.
func blocks(t testing.TB) (stream, plain []byte) {
	t.Helper()
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, 6)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		p := make([]byte, r.IntN(20000))
		for j := range p {
			switch i % 4 {
			case 0:
				p[j] = byte(r.Uint32()) // stored
			case 1:
				p[j] = "abcdefgh"[r.IntN(8)]
			case 2:
				p[j] = byte(min(r.IntN(256), r.IntN(256), r.IntN(256)))
			}
		}
		if i%5 == 4 {
			p = p[:min(len(p), 9)] // fixed
		}
		plain = append(plain, p...)
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), plain
}

// position is a block end with a window of its own.
type position struct {
	klauspost.BlockEnd
	window []byte
}

// scan returns the block ends of a stream that starts behind skip bytes of r.
func scan(t testing.TB, r io.Reader, skip int, want []byte) []position {
	t.Helper()
	var (
		ends  []position
		taken int64
	)
	count := readerFunc(func(p []byte) (int, error) {
		n, err := r.Read(p)
		taken += int64(n)
		return n, err
	})
	br := bufio.NewReaderSize(count, 64)
	if _, err := br.Discard(skip); err != nil {
		t.Fatal(err)
	}
	s := klauspost.NewScanner(br, func() int64 { return taken - int64(br.Buffered()) }, func(b klauspost.BlockEnd) {
		ends = append(ends, position{b, bytes.Clone(b.Window)})
	})
	got, err := io.ReadAll(readerFunc(s.Read))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("inflates to %d other bytes (%v)", len(got), err)
	}
	return ends
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestResume inflates from every block end to the next and finds exactly the
// bytes between them: a position wrong by one bit would not.
func TestResume(t *testing.T) {
	stream, plain := blocks(t)
	const skip = 5
	input := append(make([]byte, skip), stream...)
	ends := scan(t, iotest.HalfReader(bytes.NewReader(input)), skip, plain)
	if len(ends) < 50 {
		t.Fatalf("only %d blocks", len(ends))
	}
	last := ends[len(ends)-1]
	if !last.Final || (last.Bit+7)/8 != int64(len(input)) || last.Out != int64(len(plain)) {
		t.Fatalf("last block ends at bit %d, byte %d, want bytes %d, %d", last.Bit, last.Out, len(input), len(plain))
	}
	z := klauspost.NewResumer()
	for i, e := range ends[:len(ends)-1] {
		next := ends[i+1]
		src := input[e.Bit/8 : (next.Bit+7)/8]
		if err := z.Resume(src, uint8(e.Bit%8), uint8(-next.Bit&7), e.window); err != nil {
			t.Fatalf("block %d: %v", i, err)
		}
		got, err := io.ReadAll(readerFunc(z.Read))
		if want := plain[e.Out:next.Out]; !bytes.Equal(got, want) {
			t.Fatalf("block %d, bits %d to %d: %d other bytes, want %d", i, e.Bit, next.Bit, len(got), len(want))
		}
		if !next.Final && err != io.ErrUnexpectedEOF || next.Final && err != nil {
			t.Fatalf("block %d, final %v, ends with %v", i, next.Final, err)
		}
		if want := plain[max(0, e.Out-klauspost.WindowSize):e.Out]; !bytes.Equal(e.window, want) {
			t.Fatalf("window of block %d differs", i)
		}
	}
}

// TestScannerConsumes ends right behind the final block.
func TestScannerConsumes(t *testing.T) {
	stream, plain := blocks(t)
	br := bufio.NewReader(bytes.NewReader(append(bytes.Clone(stream), "trailer"...)))
	s := klauspost.NewScanner(br, func() int64 { return 0 }, func(klauspost.BlockEnd) {})
	if got, err := io.ReadAll(readerFunc(s.Read)); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("inflates to other bytes (%v)", err)
	}
	if rest, err := io.ReadAll(br); err != nil || string(rest) != "trailer" {
		t.Errorf("left over: %q (%v)", rest, err)
	}
}

// TestResumeStreams goes on in a second stream, after some bytes between them.
func TestResumeStreams(t *testing.T) {
	stream, plain := blocks(t)
	z := klauspost.NewResumer()
	if err := z.Resume(append(append(bytes.Clone(stream), '!'), stream...), 0, 0, nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, err := io.ReadAll(readerFunc(z.Read)); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("inflates to other bytes (%v)", err)
		}
		if b, err := z.ReadByte(); err != nil || b != '!' && b != 0 {
			t.Fatalf("between the streams: %q (%v)", b, err)
		}
		if err := z.Restart(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestResumeNothing has no input at all.
func TestResumeNothing(t *testing.T) {
	z := klauspost.NewResumer()
	for _, skip := range []uint8{0, 3} {
		err := z.Resume(nil, skip, 0, nil)
		if err == nil {
			_, err = z.Read(make([]byte, 10))
		}
		if err != io.ErrUnexpectedEOF {
			t.Errorf("skip %d: %v, want io.ErrUnexpectedEOF", skip, err)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

//go:build amd64 && !noasm && !nounsafe

package inflate

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/cpu"
)

// lockstep inflates src with the kernel. Each call of it is followed symbol by symbol
// with the checked code, which must pass the same states.
type lockstep struct {
	src     []byte
	want    int
	soft    int
	refs    int // room in the trace
	kernels int // calls of the kernel
	refsAll []Ref
}

func (l *lockstep) run(dst []byte) (int, error) {
	var d, slow Decoder
	shadow := slices.Clone(dst)
	refs, slowRefs := make([]Ref, l.refs), make([]Ref, l.refs)
	d.Reset(0)
	d.Trace(refs, l.soft)
	c := &d.c
	c.src, c.dst = l.src, dst
	for c.pos < l.want {
		var err error
		switch d.mode {
		case modeDone:
			return c.pos, nil
		case modeHeader:
			err = d.beginBlock()
		case modeStored:
			from := c.pos
			_, err = d.copyStored(l.want)
			copy(shadow[from:], dst[from:c.pos])
		default:
			if c.nrefs == len(c.refs) && c.nrefs > 0 {
				l.refsAll = append(l.refsAll, d.Refs()...)
				d.Trace(refs, l.soft)
			}
			c.inMax = len(c.src) - inSlack
			c.posMax = min(l.want-1, len(c.dst)-outSlack)
			before := c.nrefs
			copy(slowRefs, refs[:before])
			slow = d
			slow.c.dst, slow.c.refs = shadow, slowRefs[:len(c.refs)]
			ended := false
			if c.in <= c.inMax && c.pos <= c.posMax {
				l.kernels++
				exit := kernel(&d)
				for slow.place() < d.place() {
					if ended {
						return c.pos, fmt.Errorf("kernel goes on behind the end of a block")
					}
					if ended, err = slow.symbol(); err != nil {
						return c.pos, fmt.Errorf("kernel accepts at %d: %w", slow.c.pos, err)
					}
				}
				if err := same(&d, &slow); err != nil {
					return c.pos, err
				}
				if ended != (exit == exitEnd) {
					return c.pos, fmt.Errorf("exit %d, ended %v", exit, ended)
				}
				if exit == exitSlack && c.in+8 <= c.inMax && c.pos <= c.posMax {
					return c.pos, fmt.Errorf("exit for slack at %d, %d, limits %d, %d", c.in, c.pos, c.inMax, c.posMax)
				}
			}
			if !ended && c.pos < l.want && (c.nrefs < len(c.refs) || c.nrefs == 0) {
				from := c.pos
				ended, err = d.symbol()
				copy(shadow[from:], dst[from:c.pos])
			}
			if err == nil && ended {
				d.endBlock()
			}
		}
		if err != nil {
			return c.pos, err
		}
	}
	l.refsAll = append(l.refsAll, d.Refs()...)
	return c.pos, nil
}

// place is how far d has come in the input, in bits.
func (d *Decoder) place() int { return 8*d.c.in - int(d.c.nbits) }

func same(d, slow *Decoder) error {
	a, b := &d.c, &slow.c
	switch {
	case d.place() != slow.place():
		return fmt.Errorf("kernel stops at bit %d, inside the symbol before %d", d.place(), slow.place())
	case a.pos != b.pos || a.in != b.in || a.bits != b.bits || a.nbits != b.nbits:
		return fmt.Errorf("kernel: pos %d in %d bits %x/%d, symbols: pos %d in %d bits %x/%d",
			a.pos, a.in, a.bits, a.nbits, b.pos, b.in, b.bits, b.nbits)
	case !bytes.Equal(a.dst[:a.pos], b.dst[:b.pos]):
		return fmt.Errorf("kernel: wrong output before %d", a.pos)
	case !slices.Equal(a.refs[:a.nrefs], b.refs[:b.nrefs]):
		return fmt.Errorf("kernel: trace %v, want %v", a.refs[:a.nrefs], b.refs[:b.nrefs])
	}
	return nil
}

// mixed is n bytes with matches of all distances and lengths, in proportions that vary.
func mixed(r *rand.Rand, n int) []byte {
	p := make([]byte, 0, n+600)
	for len(p) < n {
		letters := 1 + r.IntN(255)
		matches := r.IntN(100)
		far := 1 + r.IntN(WindowSize)
		for stop := len(p) + r.IntN(40000); len(p) < stop && len(p) < n; {
			if len(p) == 0 || r.IntN(100) >= matches {
				p = append(p, byte(r.ExpFloat64()*float64(letters)/4))
				continue
			}
			dist := 1 + r.IntN(min(len(p), far))
			if r.IntN(4) == 0 {
				dist = 1 + r.IntN(min(len(p), 40))
			}
			length := 3 + int(r.ExpFloat64()*10)
			if r.IntN(50) == 0 {
				length = 258
			}
			for range min(length, 600) {
				p = append(p, p[len(p)-dist])
			}
		}
	}
	return p[:n]
}

func deflated(tb testing.TB, p []byte, level int) []byte {
	tb.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	if err == nil {
		_, err = w.Write(p)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func needKernel(tb testing.TB) {
	tb.Helper()
	if !cpu.X86.HasBMI2 {
		tb.Skip("the CPU has no BMI2")
	}
}

func TestKernelLockstep(t *testing.T) {
	needKernel(t)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		p := mixed(r, 1+r.IntN(300000))
		src := deflated(t, p, []int{1, 2, 5, 6, 9, flate.HuffmanOnly}[i%6])
		want := len(p)
		if i%4 == 3 {
			want = 1 + r.IntN(len(p))
		}
		for _, soft := range []int{0, len(p) / 2, math.MaxInt} {
			dst := make([]byte, len(p)+[]int{0, 7, 400}[i%3])
			l := lockstep{src: src, want: want, soft: soft, refs: 1000}
			if soft == 0 {
				l.refs = 0
			}
			pos, err := l.run(dst)
			if err != nil {
				t.Fatalf("stream %d, soft %d: %v", i, soft, err)
			}
			if pos < want || !bytes.Equal(dst[:pos], p[:pos]) {
				t.Fatalf("stream %d, soft %d: wrong output", i, soft)
			}
			if len(p) > 5000 && l.kernels == 0 {
				t.Fatalf("stream %d: the kernel was never called", i)
			}
		}
	}
}

func FuzzKernel(f *testing.F) {
	needKernel(f)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 12 {
		src := deflated(f, mixed(r, 3000+1000*i), []int{1, 6, 9, flate.HuffmanOnly}[i%4])
		f.Add(src, uint32(100000), uint32(i*997))
		for range 3 {
			src := slices.Clone(src)
			src[r.IntN(len(src))] ^= 1 << r.IntN(8)
			f.Add(src, uint32(100000), uint32(i*997))
		}
	}
	f.Fuzz(func(t *testing.T, src []byte, room, soft uint32) {
		dst := make([]byte, room%(1<<17))
		l := lockstep{src: src, want: len(dst), soft: int(soft), refs: 64}
		pos, err := l.run(dst)
		want, werr := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(src)), int64(len(dst))))
		if !bytes.Equal(dst[:min(pos, len(want))], want[:min(pos, len(want))]) {
			t.Fatalf("output differs from compress/flate: %v, %v", err, werr)
		}
		if werr == nil && len(want) < len(dst) && (err != nil || pos != len(want)) {
			t.Fatalf("compress/flate inflates %d bytes, the kernel %d: %v", len(want), pos, err)
		}
	})
}

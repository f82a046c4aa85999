// SPDX-License-Identifier: Apache-2.0

package inflate_test

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

// A trip is a job that stops here and there on its way, and what it met.
type trip struct {
	job   inflate.Job
	wants []int // where to stop
	soft  int
	room  []inflate.Ref
	refs  []inflate.Ref
	stops []string // the places of those stops that do not depend on how far loops look ahead
}

// newTrip inflates src with stops, traces and limits that seed says. Both ends of src and
// dst border on guards.
func newTrip(t testing.TB, src []byte, size int, seed uint64) *trip {
	r := rand.New(rand.NewPCG(seed, 5))
	in := newArena(t, len(src))
	out := newArena(t, size)
	tr := &trip{soft: []int{0, math.MaxInt, r.IntN(size + 1)}[r.IntN(3)]}
	tr.job.Src, tr.job.Dst = in.back(len(src)), out.back(size)
	if r.IntN(3) == 0 {
		tr.job.Src, tr.job.Dst = in.front(len(src)), out.front(size)
	}
	copy(tr.job.Src, src)
	for range r.IntN(5) {
		tr.wants = append(tr.wants, r.IntN(size+1))
	}
	slices.Sort(tr.wants)
	tr.wants = append(tr.wants, size)
	tr.job.Last = r.IntN(2) == 0
	tr.job.Decoder = &inflate.Decoder{}
	tr.job.Decoder.Reset(0)
	if tr.soft != 0 {
		tr.room = make([]inflate.Ref, 1+r.IntN(1000))
	}
	tr.job.Decoder.Trace(tr.room, tr.soft)
	tr.job.Want = tr.wants[0]
	return tr
}

// goOn makes ready for the rest of the way, if there is any.
func (tr *trip) goOn() bool {
	j := &tr.job
	place := func() { tr.stops = append(tr.stops, fmt.Sprint(j.Stop, j.Err, j.Pos, j.In, j.Decoder.Bits())) }
	tr.refs = append(tr.refs, j.Decoder.Refs()...)
	j.Decoder.Trace(tr.room, tr.soft)
	switch {
	case j.Err == nil && j.Stop == inflate.RefsFull:
	case j.Err == nil && j.Stop == inflate.NeedInput && !j.Last:
		j.Last = true
	case j.Err == nil && j.Stop == inflate.NeedOutput && len(tr.wants) > 1:
		place()
		tr.wants = tr.wants[1:]
		j.Want = tr.wants[0]
	default:
		place()
		return false
	}
	j.Stop = 0
	return true
}

// alone goes all the way by Decode.
func (tr *trip) alone() {
	j := &tr.job
	for more := true; more; {
		j.Pos, j.In, j.Stop, j.Err = j.Decoder.Decode(j.Dst, j.Pos, j.Want, j.Src, j.In, j.Last)
		more = j.Err == nil && j.Stop == inflate.BlockEnd || tr.goOn()
	}
}

// together goes all the way of both.
func together(a, b *trip) {
	stopped := func(tr *trip) bool { return tr.job.Stop != 0 || tr.job.Err != nil }
	for !stopped(a) || !stopped(b) {
		movedA, movedB := stopped(a), stopped(b)
		inflate.DecodePair(&a.job, &b.job)
		if !movedA && stopped(a) {
			a.goOn()
		}
		if !movedB && stopped(b) {
			b.goOn()
		}
	}
}

func (tr *trip) check(t testing.TB, want *trip) {
	t.Helper()
	if !slices.Equal(tr.stops, want.stops) {
		t.Fatalf("stops at %v, want %v", tr.stops, want.stops)
	}
	if p, w := tr.job.Dst[:tr.job.Pos], want.job.Dst[:want.job.Pos]; !bytes.Equal(p, w) {
		t.Fatal("wrong output")
	}
	if !slices.Equal(tr.refs, want.refs) {
		t.Fatalf("%d matches traced, want %d", len(tr.refs), len(want.refs))
	}
}

func checkPair(t testing.TB, a, b []byte, sizeA, sizeB int, seed uint64) (*trip, *trip) {
	t.Helper()
	want := [2]*trip{newTrip(t, a, sizeA, seed), newTrip(t, b, sizeB, seed+1)}
	want[0].alone()
	want[1].alone()
	x, y := newTrip(t, a, sizeA, seed), newTrip(t, b, sizeB, seed+1)
	together(x, y)
	x.check(t, want[0])
	y.check(t, want[1])
	return x, y
}

// prose is n bytes that deflate to literals and matches of all kinds.
func prose(r *rand.Rand, n int) []byte {
	p := make([]byte, 0, n+600)
	for len(p) < n {
		letters, matches, far := 1+r.IntN(255), r.IntN(100), 1+r.IntN(inflate.WindowSize)
		for stop := len(p) + r.IntN(40000); len(p) < stop; {
			if len(p) == 0 || r.IntN(100) >= matches {
				p = append(p, byte(r.ExpFloat64()*float64(letters)/4))
				continue
			}
			dist := 1 + r.IntN(min(len(p), far))
			if r.IntN(4) == 0 {
				dist = 1 + r.IntN(min(len(p), 40))
			}
			for range min(3+int(r.ExpFloat64()*10), 600) {
				p = append(p, p[len(p)-dist])
			}
		}
	}
	return p[:n]
}

func deflated(t testing.TB, p []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	if err == nil {
		_, err = w.Write(p)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestPair inflates two sound streams at once, then with bits of them flipped.
func TestPair(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 7))
	for i := range uint64(25) {
		var plain, src [2][]byte
		for k := range src {
			plain[k] = prose(r, 1+r.IntN(200000))
			src[k] = deflated(t, plain[k], []int{1, 6, 9, flate.HuffmanOnly}[r.IntN(4)])
		}
		slack := r.IntN(500)
		a, b := checkPair(t, src[0], src[1], len(plain[0])+slack+1, len(plain[1])+1, 2*i)
		for k, tr := range []*trip{a, b} {
			if tr.job.Stop != inflate.StreamEnd || !bytes.Equal(tr.job.Dst[:tr.job.Pos], plain[k]) {
				t.Fatalf("pair %d, stream %d: stop %d, %v", i, k, tr.job.Stop, tr.job.Err)
			}
		}
		for range 4 {
			bad := slices.Clone(src[0])
			bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
			checkPair(t, bad, src[1], len(plain[0])+slack, len(plain[1]), 2*i+1)
			checkPair(t, src[1], bad, len(plain[1]), len(plain[0])+slack, 2*i)
		}
	}
}

// TestPairStreams pairs all the hand-made streams, each with the next and with itself.
func TestPairStreams(t *testing.T) {
	var srcs [][]byte
	for _, s := range withTail(streams()) {
		w := &writer{}
		s.write(w)
		srcs = append(srcs, w.p)
	}
	for i, a := range srcs {
		b := srcs[(i+1)%len(srcs)]
		for seed := range uint64(4) {
			checkPair(t, a, b, 70000, 1000, seed)
		}
		checkPair(t, a, a, 40000, 30000, 9)
	}
}

// FuzzPair inflates two streams at once.
func FuzzPair(f *testing.F) {
	r := rand.New(rand.NewPCG(8, 9))
	seeds(func(src []byte) {
		f.Add(src, deflated(f, prose(r, r.IntN(5000)), 1+r.IntN(9)), r.Uint64())
	})
	f.Fuzz(func(t *testing.T, a, b []byte, seed uint64) {
		if len(a) > fuzzInput || len(b) > fuzzInput {
			return
		}
		checkPair(t, a, b, 1+int(seed%fuzzOutput), 1+int(seed>>32%fuzzOutput), seed)
	})
}

// SPDX-License-Identifier: Apache-2.0

package inflate_test

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

// Fuzzed streams are bounded, so that they are many.
const (
	fuzzInput  = 1 << 14
	fuzzOutput = 1 << 17
)

// seeds calls add with the hand-made streams that are short, and some random ones.
func seeds(add func(src []byte)) {
	for _, s := range streams() {
		w := &writer{}
		if s.write(w); len(w.p) < 1000 {
			add(w.p)
		}
	}
	for seed := range uint64(5) {
		add(randomStream(seed))
	}
}

// FuzzDecode inflates the stream as the oracle and others do.
func FuzzDecode(f *testing.F) {
	seeds(func(src []byte) { f.Add(src) })
	refs := newReferences()
	x := newFollower(f, fuzzOutput+1000)
	f.Fuzz(func(t *testing.T, src []byte) {
		if len(src) > fuzzInput {
			return
		}
		x.TB = t
		tr := inflateSlowly(src, 0, nil, fuzzOutput)
		refs.check(t, src, tr)
		x.start(src, 0, tr, plan{})
		if !errors.Is(tr.err, inflate.ErrRoom) {
			x.start(src, 0, tr, plan{slack: 600, front: true})
		}
	})
}

// FuzzResume resumes the stream at its blocks and symbols.
func FuzzResume(f *testing.F) {
	seeds(func(src []byte) { f.Add(src, uint64(len(src))) })
	x := newFollower(f, fuzzOutput+1000)
	f.Fuzz(func(t *testing.T, src []byte, seed uint64) {
		if len(src) > fuzzInput {
			return
		}
		x.TB = t
		x.everyPlace(rand.New(rand.NewPCG(seed, 0)), src, inflateSlowly(src, 0, nil, fuzzOutput), 10)
	})
}

// FuzzStopAndGo inflates the stream in pieces, into buffers of all sizes.
func FuzzStopAndGo(f *testing.F) {
	seeds(func(src []byte) { f.Add(src, uint64(len(src)), uint32(fuzzOutput)) })
	x := newFollower(f, fuzzOutput+1000)
	f.Fuzz(func(t *testing.T, src []byte, seed uint64, room uint32) {
		if len(src) > fuzzInput {
			return
		}
		x.TB = t
		tr := inflateSlowly(src, 0, nil, int(room%fuzzOutput))
		r := rand.New(rand.NewPCG(seed, 0))
		for range 3 {
			x.start(src, 0, tr, randomPlan(r, tr))
		}
	})
}

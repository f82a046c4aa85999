// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"fmt"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/seekoci/seekoci/ztoc"
)

// bigTOC returns n files in directories of 100.
func bigTOC(n int) []ztoc.Entry {
	toc := make([]ztoc.Entry, 0, n)
	for i := range n {
		toc = append(toc, file(fmt.Sprintf("usr/lib/python3/dist-packages/pkg%d/module_%d.py", i/100, i), int64(i)))
	}
	return toc
}

func BenchmarkTreeBuild(b *testing.B) { benchmarkBuild(b, bigTOC(100_000)) }

// benchmarkBuild builds the tree of toc, and tells what of it is kept.
func benchmarkBuild(b *testing.B, toc []ztoc.Entry) {
	b.ReportAllocs()
	for b.Loop() {
		tr, err := newTree(entries(toc), layerSize, false, plenty())
		must(b, err)
		b.ReportMetric(float64(tr.memory)/float64(len(toc)), "kept-B/file")
	}
}

func BenchmarkTreeLookup(b *testing.B) {
	toc := bigTOC(100_000)
	tr, err := newTree(entries(toc), layerSize, false, plenty())
	must(b, err)
	d := uint32(0)
	for _, c := range []string{"usr", "lib", "python3", "dist-packages"} {
		d, _ = tr.lookup(&tr.nodes[d], c)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i = (i + 7919) % 1000
		name := dirNames[i]
		if _, ok := tr.lookup(&tr.nodes[d], name); !ok {
			b.Fatal(name)
		}
	}
}

var dirNames = slices.Collect(func(yield func(string) bool) {
	for i := range 1000 {
		if !yield(fmt.Sprintf("pkg%d", i)) {
			return
		}
	}
})

func BenchmarkReadDirPlus(b *testing.B) {
	tr, err := newTree(entries(bigTOC(100_000)), layerSize, false, plenty())
	must(b, err)
	f := &FS{}
	l := &layer{name: "l", slot: 1, tree: tr}
	f.table.Store(&table{slots: map[uint32]*layer{1: l}, names: map[string]*layer{"l": l}})
	r := &raw{f: f}
	d := uint32(0)
	for _, c := range []string{"usr", "lib", "python3", "dist-packages"} {
		d, _ = tr.lookup(&tr.nodes[d], c)
	}
	in := &fuse.ReadIn{}
	in.NodeId = 1<<32 | uint64(d)
	buf := make([]byte, 4<<20)
	b.ReportAllocs()
	for b.Loop() {
		out := fuse.NewDirEntryList(buf, 0)
		if st := r.ReadDirPlus(nil, in, out); !st.Ok() || out.Offset != 1002 {
			b.Fatal(st, out.Offset)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/entry")
}

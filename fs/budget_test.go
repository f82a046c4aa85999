// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"strings"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestTreeMemory builds trees with less and less memory: either it is enough, or it
// is all given back.
func TestTreeMemory(t *testing.T) {
	toc := bigTOC(3000)
	for i := range 3000 {
		toc = append(toc, ztoc.Entry{Name: strings.Repeat("implied/", i%20) + "x", Type: ztoc.TypeSymlink, Linkname: strings.Repeat("y", 500)})
	}
	var failed, built int
	for maxMem := int64(64 << 20); maxMem > 0; maxMem = maxMem * 2 / 3 {
		b := &budget{max: maxMem}
		room := &loan{from: b}
		tr, err := newTree(entries(toc), layerSize, false, room)
		if err != nil {
			failed++
			if !errors.Is(err, ErrMemory) || errors.Is(err, ErrTOC) {
				t.Fatalf("with %d bytes: %v", maxMem, err)
			}
			room.keep(0)
		} else {
			built++
			if used := b.used.Load(); used != tr.memory || used > maxMem || used < int64(len(tr.arena)+len(tr.nodes)) {
				t.Errorf("with %d bytes: %d taken for a tree of %d", maxMem, used, tr.memory)
			}
			room.keep(0)
		}
		if used := b.used.Load(); used != 0 {
			t.Fatalf("with %d bytes: %d never given back", maxMem, used)
		}
	}
	if failed < 5 || built < 5 {
		t.Errorf("%d failed, %d built", failed, built)
	}
}

// TestAttachMemory attaches layers until there is no memory for one more, and makes room.
func TestAttachMemory(t *testing.T) {
	f := mustMount(t)
	b := mustBuild(t, []ztoctest.File{ztoctest.Big(1, "big", 1000)})
	b.z.TOC = append(b.z.TOC, bigTOC(3000)...)
	for i := range b.z.TOC {
		b.z.TOC[i].Offset, b.z.TOC[i].Size = 0, 1
	}
	mustAttach(t, f, "one", b)
	used := f.Stats().TreeMemory
	f.trees.max = used * 7 / 2 // building takes nearly three times that
	_, l := mustAttach(t, f, "two", mustBuild(t, []ztoctest.File{ztoctest.Big(1, "big", 1000)}))
	if _, err := f.Attach("three", 0, b.z, l); !errors.Is(err, ErrMemory) {
		t.Fatalf("attached without memory: %v", err)
	}
	must(t, f.Detach("one"))
	until(t, func() bool { f.sweep(); return f.Stats().Held == 0 && f.Stats().TreeMemory < used/10 })
	if _, err := f.Attach("three", 0, b.z, l); err != nil {
		t.Error(err)
	}
	must(t, l.Close())
}

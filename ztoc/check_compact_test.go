// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"slices"
	"strings"
	"testing"

	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestCheckCompactNames holds that Check looks at the names that Lookup goes by as well: here
// they are out of order, while the entries are all right.
func TestCheckCompactNames(t *testing.T) {
	a, b := strings.Repeat("a", 8), strings.Repeat("b", 8)
	archive := func(names ...string) []byte {
		var files []ztoctest.File
		for _, n := range names {
			files = append(files, ztoctest.File{Header: tar.Header{Name: n, Mode: 0o644}})
		}
		p, err := ztoctest.Tar(files, ztoctest.TarOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	layer := archive(a, b)
	z, err := Build(t.Context(), bytes.NewReader(archive(b, a)), BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(layer)
	z.ZInfo.Spans[0].Sum = sum
	src := &compactSource{layer: sum, diffID: sum, buildTool: "test", entries: slices.All(z.TOC), zinfo: z.ZInfo}
	p, err := encodedBy(nil, src) // nothing is compressed
	if err != nil {
		t.Fatal(err)
	}
	swapped := bytes.Replace(p, []byte(a+b), []byte(b+a), 1)
	r, err := Open(swapped)
	if err != nil || bytes.Equal(swapped, p) {
		t.Fatalf("%q: %v", p, err)
	}
	var names []string
	for _, e := range r.Entries() {
		names = append(names, e.Name)
	}
	if _, found := r.Lookup(a); found || !slices.Equal(names, []string{a, b}) {
		t.Fatalf("entries %q, found %t", names, found)
	}
	c, err := r.Check(t.Context(), bytes.NewReader(layer), CheckOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Faults) != 1 || !strings.Contains(c.Faults[0].Error(), "check compact zTOC: ") {
		t.Errorf("faults %q", c.Faults)
	}
}

// TestCheckCompactFlip holds that Check finds a change of a compact zTOC, or it makes no difference.
func TestCheckCompactFlip(t *testing.T) {
	plain, layer, z := storedLayer(t)
	p := storedCompact(t)[0] // of that layer
	sums := p[len(compactMagic)+8:][:64]
	of, diffID := sha256.Sum256(layer), sha256.Sum256(plain)
	copy(sums, of[:])
	copy(sums[32:], diffID[:])
	check := func() (faults []error, c *Compact) {
		r, err := Open(p)
		if err != nil {
			return []error{err}, nil
		}
		checked, err := r.Check(t.Context(), bytes.NewReader(layer), CheckOptions{})
		if err != nil { // of a layer compressed as the zTOC says
			return []error{err}, nil
		}
		return checked.Faults, r.c
	}
	if faults, _ := check(); len(faults) > 0 {
		t.Fatal(faults)
	}
	told := 0
	for i := range 40 {
		at := i * len(p) / 40
		if i < 2 { // the digests
			at = compactHeader - 1 - 32*i
		}
		p[at] ^= 4
		if faults, c := check(); len(faults) > 0 {
			told++
		} else if i < 2 {
			t.Errorf("digest %d: no fault", i)
		} else {
			checkCompact(t, c, z, layer, plain)
		}
		p[at] ^= 4
	}
	if told < 20 {
		t.Errorf("%d faults of 40", told)
	}
}

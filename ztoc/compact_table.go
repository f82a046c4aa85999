// SPDX-License-Identifier: Apache-2.0

package ztoc

// table is the file table of a compact zTOC, used in place. Nothing in it has been
// validated but that the columns have all of their elements.
type table struct {
	size    int64 // uncompressed bytes of the layer
	entries int
	nodes   int

	// by node
	text                        []byte
	shared, suffix, kids, ranks column
	textAt, firsts              column // by block of nodes

	// by entry
	outside                   []byte
	classOf, sizes, gaps      column
	sec, nsec, access, change column
	extraLen                  column
	offsetAt, extraAt         column // by block of entries
	extras, classes           []byte
	classText                 string // classes, for strings that are parts of it
	classAt                   column // by class
}

// read has the sections of the table unpacked to t.
func (t *table) read(r *sectionReader, classes int) {
	n, m := t.entries, t.nodes
	r.text(&t.text, r.left)
	r.plain(&t.shared, m)
	r.plain(&t.suffix, m)
	r.plain(&t.kids, m)
	r.running(&t.ranks, m)
	r.plain(&t.textAt, blocks(m))
	r.plain(&t.firsts, blocks(m))
	r.text(&t.outside, r.left)
	r.plain(&t.classOf, n)
	r.plain(&t.sizes, n)
	r.plain(&t.gaps, n)
	r.plain(&t.offsetAt, blocks(n))
	r.best(&t.sec, n)
	r.best(&t.nsec, n)
	r.best(&t.access, n)
	r.best(&t.change, n)
	r.plain(&t.extraLen, n)
	r.plain(&t.extraAt, blocks(n))
	r.text(&t.extras, r.left)
	r.text(&t.classes, r.left)
	r.plain(&t.classAt, classes)
}

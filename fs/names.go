// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"hash/maphash"
	"math/bits"
)

// buildName is a name on its way into the tree.
type buildName struct {
	at     uint32 // in names.text
	parent uint32 // the name of the directory
	inode  uint32
	kids   uint32 // names below
	hash   uint32 // of parent and name
	len    uint8
}

// names is the names of a tree on its way, found by directory and name. Name 0 is
// the root, which nothing finds.
type names struct {
	list []buildName
	text []byte
	slot []uint32 // open addressing, a power of two of them; 0 is free
	seed maphash.Seed
}

// init makes room for n names, the root among them.
func (t *names) init(n int) {
	t.seed = maphash.MakeSeed()
	t.list = append(make([]buildName, 0, n), buildName{})
	t.slot = make([]uint32, 1<<bits.Len(uint(n+n/2)))
}

// hash returns the hash of a name, which nobody can foresee.
func (t *names) hash(parent uint32, name string) uint32 {
	h := maphash.String(t.seed, name) ^ uint64(parent)*0x9e3779b97f4a7c15
	return uint32(h ^ h>>32)
}

// name returns the last component of name n.
func (t *names) name(n uint32) []byte {
	b := &t.list[n]
	return t.text[b.at:][:b.len]
}

// find returns the name called name in the directory parent.
func (t *names) find(parent uint32, name string) (uint32, bool) {
	h := t.hash(parent, name)
	mask := uint32(len(t.slot) - 1)
	for i := h & mask; t.slot[i] != 0; i = (i + 1) & mask {
		n := t.slot[i]
		if b := &t.list[n]; b.hash == h && b.parent == parent && string(t.name(n)) == name {
			return n, true
		}
	}
	return 0, false
}

// add adds a name that is not there yet, of at most 255 bytes.
func (t *names) add(parent uint32, name string, inode uint32) {
	if len(t.list)*4 > len(t.slot)*3 {
		t.slot = make([]uint32, 2*len(t.slot))
		for n := range t.list[1:] {
			t.place(uint32(n + 1))
		}
	}
	n := uint32(len(t.list))
	t.list = append(t.list, buildName{
		at:     uint32(len(t.text)),
		parent: parent,
		inode:  inode,
		hash:   t.hash(parent, name),
		len:    uint8(len(name)),
	})
	t.text = append(t.text, name...)
	t.list[parent].kids++
	t.place(n)
}

// place enters name n, which is in the list, into the slots.
func (t *names) place(n uint32) {
	mask := uint32(len(t.slot) - 1)
	i := t.list[n].hash & mask
	for t.slot[i] != 0 {
		i = (i + 1) & mask
	}
	t.slot[i] = n
}

// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// What follows is the file format of bbolt (its internal/common: page.go, meta.go, inode.go, bucket.go), in the
// byte order of the machine.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	pageHeader  = 16 // id 8, flags 2, count 2, further pages 4
	metaSize    = 64 // magic 4, version 4, page size 4, flags 4, root 8, sequence 8, free list 8, pages 8, transaction 8, checksum 8
	elementSize = 16 // of a leaf: flags 4, position 4, key 4, value 4; of a branch: position 4, key 4, page 8
	bucketSize  = 16 // root 8, sequence 8

	branchPage  = 0x01
	leafPage    = 0x02
	freePage    = 0x10
	bucketEntry = 0x01           // of an element of a leaf
	noFreeList  = math.MaxUint64 // for its page
	manyFree    = math.MaxUint16 // for its count, which is the list's first word then

	minPageSize, maxPageSize = 1 << 10, 1 << 24 // bbolt looks for no others
)

// checkPages checks what bbolt takes for granted of the database p: that its pages and what is in them lie in the
// file, and that they are a tree. Otherwise it would panic, read what is not there, or go in circles until no memory
// is left. The error matches errDamaged. Where no page tells where the tree is there is none: bbolt notices.
func checkPages(p []byte) error {
	m := newestMeta(p)
	if m == nil {
		return nil
	}
	g := pages{p: p, size: uint64(m.pageSize), seen: make([]bool, min(m.pages, uint64(len(p))/uint64(m.pageSize)))}
	err := g.tree(m.root)
	if err == nil && m.freeList != noFreeList {
		err = g.freeList(m.freeList)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return nil
}

// meta is what says where all else of a database is.
type meta struct {
	pageSize        uint32
	root, freeList  uint64 // their pages
	pages           uint64
	lastTransaction uint64
}

// newestMeta returns the newer of the two that a database has; nil if neither is good. The second is on the second
// page, wherever that is if the first is not good.
func newestMeta(p []byte) *meta {
	a := readMeta(p)
	for size := minPageSize; size <= min(maxPageSize, len(p)); size *= 2 {
		b := readMeta(p[size:])
		if b == nil || b.pageSize != uint32(size) || a != nil && a.pageSize != b.pageSize {
			continue
		}
		if a == nil || b.lastTransaction > a.lastTransaction {
			return b
		}
	}
	return a
}

// readMeta reads what the first page of p says; nil if it is not good.
func readMeta(p []byte) *meta {
	if len(p) < pageHeader+metaSize {
		return nil
	}
	p = p[pageHeader:][:metaSize]
	h := fnv.New64a()
	_, _ = h.Write(p[:metaSize-8])
	e := binary.NativeEndian
	m := &meta{
		pageSize: e.Uint32(p[8:]), root: e.Uint64(p[16:]), freeList: e.Uint64(p[32:]), pages: e.Uint64(p[40:]),
		lastTransaction: e.Uint64(p[48:]),
	}
	switch {
	case e.Uint32(p) != boltMagic, e.Uint32(p[4:]) != boltVersion, e.Uint64(p[56:]) != h.Sum64():
		return nil
	case m.pageSize < minPageSize, m.pageSize > maxPageSize, m.pageSize&(m.pageSize-1) != 0:
		return nil
	}
	return m
}

// pages are those of a database.
type pages struct {
	p    []byte
	size uint64 // of each
	seen []bool
}

// use marks pages as used, which must not be used yet.
func (g *pages) use(id, n uint64) error {
	if id < 2 || id >= uint64(len(g.seen)) || n > uint64(len(g.seen))-id {
		return fmt.Errorf("there is no page %d", id+n-1)
	}
	if used := slices.Index(g.seen[id:id+n], true); used >= 0 {
		return fmt.Errorf("page %d is used twice", id+uint64(used))
	}
	for i := range n {
		g.seen[id+i] = true
	}
	return nil
}

// page returns the page id, and those that belong to it, from their header on.
func (g *pages) page(id uint64) ([]byte, error) {
	if err := g.use(id, 1); err != nil {
		return nil, err
	}
	p := g.p[id*g.size:]
	if is := binary.NativeEndian.Uint64(p); is != id {
		return nil, fmt.Errorf("page %d says that it is %d", id, is)
	}
	more := uint64(binary.NativeEndian.Uint32(p[12:]))
	if more > 0 {
		if err := g.use(id+1, more); err != nil {
			return nil, err
		}
	}
	return p[:(1+more)*g.size], nil
}

// header returns what kind of page p is, and how many elements it has.
func header(p []byte) (flags uint16, count int) {
	return binary.NativeEndian.Uint16(p[8:]), int(binary.NativeEndian.Uint16(p[10:]))
}

// tree checks all that is reached from a page.
func (g *pages) tree(root uint64) error {
	for todo := []uint64{root}; len(todo) > 0; {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		p, err := g.page(id)
		if err != nil {
			return err
		}
		var more []uint64
		switch flags, count := header(p); {
		case flags == leafPage:
			more, err = leaf(p, true)
		case flags == branchPage && count > 0:
			more, err = branch(p)
		default:
			err = fmt.Errorf("flags %#x, %d elements", flags, count)
		}
		if err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		todo = append(todo, more...)
	}
	return nil
}

var errOutside = errors.New("an element that lies outside")

// branch returns the pages that the branch p refers to.
func branch(p []byte) ([]uint64, error) {
	_, count := header(p)
	if pageHeader+count*elementSize > len(p) {
		return nil, errOutside
	}
	list := make([]uint64, count)
	for i := range list {
		e := p[pageHeader+i*elementSize:]
		pos, key := uint64(binary.NativeEndian.Uint32(e)), uint64(binary.NativeEndian.Uint32(e[4:]))
		if pos+key > uint64(len(e)) {
			return nil, errOutside
		}
		list[i] = binary.NativeEndian.Uint64(e[8:])
	}
	return list, nil
}

// leaf returns the roots of the buckets in the leaf p. Those that are small lie in the leaf themselves, as a leaf
// that has none.
func leaf(p []byte, buckets bool) (roots []uint64, err error) {
	_, count := header(p)
	if pageHeader+count*elementSize > len(p) {
		return nil, errOutside
	}
	for i := range count {
		e := p[pageHeader+i*elementSize:]
		le := binary.NativeEndian
		pos, key, value := uint64(le.Uint32(e[4:])), uint64(le.Uint32(e[8:])), uint64(le.Uint32(e[12:]))
		if pos+key+value > uint64(len(e)) {
			return nil, errOutside
		}
		if le.Uint32(e)&bucketEntry == 0 {
			continue
		}
		b := e[pos+key:][:value]
		if !buckets || value < bucketSize {
			return nil, fmt.Errorf("a bucket of %d bytes", value)
		}
		root := le.Uint64(b)
		if root != 0 {
			roots = append(roots, root)
			continue
		}
		b = b[bucketSize:]
		if len(b) < pageHeader {
			return nil, fmt.Errorf("a bucket of %d bytes", value)
		}
		if flags, _ := header(b); flags != leafPage {
			return nil, fmt.Errorf("a bucket's flags %#x", flags)
		}
		if _, err := leaf(b, false); err != nil {
			return nil, err
		}
	}
	return roots, nil
}

// freeList checks the list of free pages, none of which is used.
func (g *pages) freeList(id uint64) error {
	p, err := g.page(id)
	if err != nil {
		return err
	}
	flags, n := header(p)
	p = p[pageHeader:]
	count := uint64(n)
	if n == manyFree {
		count, p = binary.NativeEndian.Uint64(p), p[8:]
	}
	if flags != freePage || count > uint64(len(p)/8) {
		return fmt.Errorf("page %d: flags %#x, %d free pages", id, flags, count)
	}
	for i := range count {
		if err := g.use(binary.NativeEndian.Uint64(p[8*i:]), 1); err != nil {
			return fmt.Errorf("free: %w", err)
		}
	}
	return nil
}

const lockEvery = 50 * time.Millisecond

// readLocked reads a database that no other daemon has open, or not any more after wait; 0 means that it waits for ever.
func readLocked(path string, wait time.Duration) (p []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }() // which gives the lock back
	for end := time.Now().Add(wait); ; time.Sleep(lockEvery) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, os.NewSyscallError("flock", err)
		}
		if wait > 0 && time.Now().After(end) {
			return nil, errOpenElsewhere
		}
	}
	return io.ReadAll(f)
}

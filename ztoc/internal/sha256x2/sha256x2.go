// SPDX-License-Identifier: Apache-2.0

// Package sha256x2 digests two streams with SHA-256 at once, on one core.
//
// The SHA instructions of a CPU wait for each other within a stream; those of two
// streams do not. [Write] feeds two digests of crypto/sha256, which stay what they
// are, and takes the long middle of what they get through an assembly loop of its
// own that does a block of each in turn:
//
//	a, b := sha256.New(), sha256.New()
//	sha256x2.Write(a, b, p, q)
//
// # Decisions
//
//   - The state of a digest is taken and put back in the form of its MarshalBinary,
//     which crypto/sha256 documents and keeps. So there is no second SHA-256 to
//     trust with partial blocks, padding and lengths.
//   - Without the instructions, or with the build tag noasm, the digests are written
//     one after the other.
package sha256x2

import (
	"encoding"
	"encoding/binary"
	"hash"
)

const (
	blockSize = 64
	minBlocks = 8                // below, taking out the state costs more than it brings
	stateSize = 4 + 32 + 64 + 8  // of a marshalled digest: magic, state, buffer, length
	maxBlocks = (256 << 10) / 64 // of one call: assembly cannot be preempted
)

// Write adds p to a and q to b, which are digests of crypto/sha256.New and not the same.
func Write(a, b hash.Hash, p, q []byte) {
	if have && min(len(p), len(q)) >= (minBlocks+1)*blockSize {
		p, q = pair(a, b, p, q)
	}
	a.Write(p)
	b.Write(q)
}

// digest is a digest whose state is out.
type digest struct {
	hash.Hash
	buf [stateSize]byte
	h   [8]uint32
}

// pair digests as many blocks of both as there are, and returns the rest.
func pair(a, b hash.Hash, p, q []byte) (restP, restQ []byte) {
	x, y := digest{Hash: a}, digest{Hash: b}
	p, okA := x.take(p)
	q, okB := y.take(q)
	if !okA || !okB {
		return p, q
	}
	blocks := min(len(p), len(q)) / blockSize
	for n := blocks; n > 0; {
		k := min(n, maxBlocks)
		block2(&x.h, &y.h, &p[0], &q[0], k)
		p, q = p[k*blockSize:], q[k*blockSize:]
		n -= k
	}
	x.put(blocks)
	y.put(blocks)
	return p, q
}

// take fills the digest's open block from p, takes its state out, and returns the
// rest of p. It reports false if the digest is not one of crypto/sha256.
func (d *digest) take(p []byte) ([]byte, bool) {
	m, ok := d.Hash.(encoding.BinaryAppender)
	if !ok {
		return p, false
	}
	buf, err := m.AppendBinary(d.buf[:0])
	if err != nil || len(buf) != stateSize {
		return p, false
	}
	if open := int(binary.BigEndian.Uint64(buf[stateSize-8:]) % blockSize); open != 0 {
		d.Hash.Write(p[:blockSize-open])
		p = p[blockSize-open:]
		if buf, err = m.AppendBinary(d.buf[:0]); err != nil {
			return p, false
		}
	}
	for i := range d.h {
		d.h[i] = binary.BigEndian.Uint32(buf[4+4*i:])
	}
	return p, true
}

// put puts the state back, n blocks later.
func (d *digest) put(n int) {
	for i, v := range d.h {
		binary.BigEndian.PutUint32(d.buf[4+4*i:], v)
	}
	size := d.buf[stateSize-8:]
	binary.BigEndian.PutUint64(size, binary.BigEndian.Uint64(size)+uint64(n)*blockSize)
	if err := d.Hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(d.buf[:]); err != nil {
		panic("ztoc: internal error: " + err.Error())
	}
}

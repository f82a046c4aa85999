// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"time"

	"github.com/opencontainers/go-digest"
)

// generated is a layer that is written whenever it is needed: the same bytes each time.
type generated struct {
	pool  []piece
	size  int64 // bytes of large files; 0: many small files instead
	files int   // small files

	diffID digest.Digest // set by measure, as what follows
	crc    uint32
	tar    int64
	gzip   int64
}

// measure writes the layer to w, and learns what it is.
func (g *generated) measure(w io.Writer) error {
	sum := sha256.New()
	n := &countingWriter{w: w}
	e := &encoder{w: n, plain: io.MultiWriter(sum, (*crcWriter)(&g.crc))}
	g.crc = 0
	if err := g.fill(e); err != nil {
		return err
	}
	g.diffID, g.tar = digest.NewDigest(digest.SHA256, sum), e.n
	if err := e.close(g.crc); err != nil {
		return err
	}
	g.gzip = n.n
	return nil
}

// write writes the layer, which has been measured.
func (g *generated) write(w io.Writer) error {
	e := &encoder{w: w}
	if err := g.fill(e); err != nil {
		return err
	}
	return e.close(g.crc)
}

// fill writes the layer's archive.
func (g *generated) fill(e *encoder) error {
	rnd := rand.New(rand.NewPCG(1, uint64(g.size)+uint64(g.files)))
	if _, err := e.w.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}); err != nil {
		return err
	}
	fill := g.large
	if g.size == 0 {
		fill = g.small
	}
	if err := fill(e, rnd); err != nil {
		return err
	}
	return e.stored(make([]byte, 1024)) // the end of the archive
}

// large writes files of up to 16 pieces, in random order.
func (g *generated) large(e *encoder, rnd *rand.Rand) error {
	for i := 0; e.n < g.size; i++ {
		pieces := make([]piece, 1+rnd.IntN(16))
		var size int64
		for k := range pieces {
			pieces[k] = g.pool[rnd.IntN(len(g.pool))]
			size += int64(len(pieces[k].plain))
		}
		hdr, err := header(fmt.Sprintf("opt/large/lib%06d.so", i), size)
		if err != nil {
			return err
		}
		if err := e.stored(hdr); err != nil {
			return err
		}
		for _, p := range pieces {
			if err := e.piece(p); err != nil {
				return err
			}
		}
		if err := e.stored(make([]byte, -size&511)); err != nil {
			return err
		}
	}
	return nil
}

// small writes files of up to 2 KiB, in directories of 64, as package managers make them.
func (g *generated) small(e *encoder, rnd *rand.Rand) error {
	z, err := flate.NewWriter(e.w, flate.BestSpeed)
	if err != nil {
		return err
	}
	w := io.Writer(z)
	if e.plain != nil {
		w = io.MultiWriter(z, e.plain)
	}
	var pad [512]byte
	for i := range g.files {
		from := g.pool[rnd.IntN(len(g.pool))].plain
		size := min(rnd.IntN(2<<10), len(from))
		at := rnd.IntN(len(from) - size + 1)
		hdr, err := header(fmt.Sprintf("srv/app/node_modules/package-%05d/dist/%06x-%d.js", i/64, rnd.Uint32()>>8, i), int64(size))
		if err != nil {
			return err
		}
		for _, p := range [][]byte{hdr, from[at : at+size], pad[:-size&511]} {
			if _, err := w.Write(p); err != nil {
				return err
			}
			e.n += int64(len(p))
		}
	}
	return z.Flush()
}

// header is the header block of a regular file.
func header(name string, size int64) ([]byte, error) {
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(1700000000, 0)})
	return b.Bytes(), err
}

// encoder writes the deflate stream of a gzip member.
type encoder struct {
	w     io.Writer
	plain io.Writer // gets the uncompressed bytes; nil: nobody
	n     int64     // of the uncompressed bytes
}

// stored writes p, of less than 64 KiB, as a stored block.
func (e *encoder) stored(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	b := binary.LittleEndian.AppendUint16([]byte{0}, uint16(len(p)))
	b = binary.LittleEndian.AppendUint16(b, ^uint16(len(p)))
	return e.put(append(b, p...), p)
}

func (e *encoder) piece(p piece) error { return e.put(p.deflate, p.plain) }

func (e *encoder) put(deflate, plain []byte) error {
	e.n += int64(len(plain))
	if e.plain != nil {
		if _, err := e.plain.Write(plain); err != nil {
			return err
		}
	}
	_, err := e.w.Write(deflate)
	return err
}

// close writes an empty last block and the trailer.
func (e *encoder) close(crc uint32) error {
	b := binary.LittleEndian.AppendUint32([]byte{1, 0, 0, 0xff, 0xff}, crc)
	_, err := e.w.Write(binary.LittleEndian.AppendUint32(b, uint32(e.n)))
	return err
}

// crcWriter is the CRC-32 of what is written to it.
type crcWriter uint32

func (c *crcWriter) Write(p []byte) (int, error) {
	*c = crcWriter(crc32.Update(uint32(*c), crc32.IEEETable, p))
	return len(p), nil
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

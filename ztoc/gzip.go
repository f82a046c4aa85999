// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Gzip members, RFC 1952.
const (
	gzipID1, gzipID2 = 0x1f, 0x8b
	gzipDeflate      = 8

	gzipFHCRC    = 1 << 1
	gzipFEXTRA   = 1 << 2
	gzipFNAME    = 1 << 3
	gzipFCOMMENT = 1 << 4
	gzipReserved = 0xe0

	gzipMinHeader = 10
	gzipTrailer   = 8 // CRC32 and ISIZE
)

// The faults of a gzip member.
var (
	errGzipMagic    = errors.New("not a gzip member")
	errGzipMethod   = errors.New("compression method is not deflate")
	errGzipReserved = errors.New("reserved flag is set")
	errGzipFHCRC    = errors.New("header checksum mismatch")
)

// gzipHeader reads one member header.
type gzipHeader struct {
	r   io.ByteReader
	crc uint32
}

// readGzipHeader consumes a member header from r. It returns io.ErrUnexpectedEOF
// where r ends inside it.
func readGzipHeader(r io.ByteReader) error {
	h := gzipHeader{r: r}
	var fixed [gzipMinHeader]byte
	for i := range fixed {
		b, err := h.byte()
		if err != nil {
			return err
		}
		fixed[i] = b
		if i == 1 && (fixed[0] != gzipID1 || fixed[1] != gzipID2) {
			return errGzipMagic
		}
	}
	if fixed[2] != gzipDeflate {
		return fmt.Errorf("method %d: %w", fixed[2], errGzipMethod)
	}
	flags := fixed[3]
	if flags&gzipReserved != 0 {
		return fmt.Errorf("flags %#x: %w", flags, errGzipReserved)
	}
	return h.optional(flags)
}

// optional consumes the fields that flags announces.
func (h *gzipHeader) optional(flags byte) error {
	if flags&gzipFEXTRA != 0 {
		n, err := h.uint16()
		if err != nil {
			return err
		}
		for range n {
			if _, err := h.byte(); err != nil {
				return err
			}
		}
	}
	for _, f := range [...]byte{gzipFNAME, gzipFCOMMENT} {
		if flags&f == 0 {
			continue
		}
		for {
			b, err := h.byte()
			if err != nil {
				return err
			}
			if b == 0 {
				break
			}
		}
	}
	if flags&gzipFHCRC != 0 {
		want := uint16(h.crc)
		got, err := h.uint16()
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("stored %#04x, computed %#04x: %w", got, want, errGzipFHCRC)
		}
	}
	return nil
}

// byte consumes one byte and adds it to the header's checksum.
func (h *gzipHeader) byte() (byte, error) {
	b, err := h.r.ReadByte()
	if err != nil {
		return 0, noEOF(err)
	}
	c := ^h.crc
	h.crc = ^(crc32.IEEETable[byte(c)^b] ^ c>>8)
	return b, nil
}

func (h *gzipHeader) uint16() (uint16, error) {
	lo, err := h.byte()
	if err != nil {
		return 0, err
	}
	hi, err := h.byte()
	return uint16(lo) | uint16(hi)<<8, err
}

// noEOF makes io.EOF, in the middle of something, io.ErrUnexpectedEOF.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

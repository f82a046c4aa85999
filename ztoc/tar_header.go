// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bytes"
	"encoding/binary"
	"time"
)

// Fields of a tar header that are read here; see POSIX.1-1988.
const (
	tarName, tarNameEnd         = 0, 100
	tarMode, tarUID, tarGID     = 100, 108, 116
	tarSize, tarModTime, tarSum = 124, 136, 148
	tarType                     = 156
	tarLink, tarLinkEnd         = 157, 257
	tarMagic                    = 257
	tarUname, tarGname          = 265, 297
	tarDevmajor, tarDevminor    = 329, 337
	tarPrefix, tarPrefixEnd     = 345, 500
	tarGNUTimesEnd              = 369 // of access and change time, in a GNU header
	tarTrailer                  = 508 // of a star header
)

// plainTypes are the types of entries that a header alone describes.
var plainTypes = [256]EntryType{'0': TypeReg, '1': TypeHardlink, '2': TypeSymlink, '5': TypeDir}

// plainHeader reads the header of an entry that is all there is of it, in the form
// in which nearly all are written: ustar or GNU, numbers in octal digits up to a NUL.
// It sets e to what archive/tar and entryOf would make of it, but for the offset, or
// reports false: then the block may be anything, and e is as before. What e was is most
// likely the entry before: who owns that owns this, in the same memory.
func plainHeader(p *[tarBlock]byte, e *Entry) bool {
	typ := plainTypes[p[tarType]]
	if typ == 0 || p[tarName] == 0 {
		return false
	}
	n, ok := headerNumbers(p)
	if !ok {
		return false
	}
	if typ != TypeReg {
		n.size = 0
	}
	*e = Entry{
		Name: tarString(p[tarName:tarNameEnd]), Linkname: tarString(p[tarLink:tarLinkEnd]),
		Type: typ, Size: n.size, Mode: n.mode,
		UID: uint32(n.uid), GID: uint32(n.gid), Uname: tarStringOr(e.Uname, p[tarUname:tarGname]), Gname: tarStringOr(e.Gname, p[tarGname:tarDevmajor]),
		ModTime:  time.Unix(n.mtime, 0).UTC(),
		Devmajor: n.major, Devminor: n.minor,
	}
	if p[tarPrefix] != 0 {
		e.Name = tarString(p[tarPrefix:tarPrefixEnd]) + "/" + e.Name
	}
	return true
}

// numbers are the numbers of a header.
type numbers struct {
	mode, uid, gid, size, mtime, major, minor int64
}

// headerNumbers reads the numbers of a header in that form; any other block is not ok.
func headerNumbers(p *[tarBlock]byte) (n numbers, ok bool) {
	switch string(p[tarMagic : tarMagic+8]) {
	case "ustar  \x00": // GNU: no prefix, but two times in its place
		var none [tarGNUTimesEnd - tarPrefix]byte
		if *(*[len(none)]byte)(p[tarPrefix:]) != none {
			return n, false
		}
	default:
		if string(p[tarMagic:tarMagic+6]) != "ustar\x00" || string(p[tarTrailer:]) == "tar\x00" {
			return n, false
		}
	}
	var ok1, ok2, ok3, ok4, ok5, ok6, ok7, ok8 bool
	var sum int64
	n.mode, ok1 = octal(p[tarMode : tarMode+8])
	n.uid, ok2 = octal(p[tarUID : tarUID+8])
	n.gid, ok3 = octal(p[tarGID : tarGID+8])
	n.size, ok4 = octal(p[tarSize : tarSize+12])
	n.mtime, ok5 = octal(p[tarModTime : tarModTime+12])
	sum, ok6 = octal(p[tarSum : tarSum+7]) // a space follows
	n.major, ok7 = octalOrNone(p[tarDevmajor : tarDevmajor+8])
	n.minor, ok8 = octalOrNone(p[tarDevminor : tarDevminor+8])
	ok = ok1 && ok2 && ok3 && ok4 && ok5 && ok6 && ok7 && ok8
	return n, ok && p[tarSum+7] == ' ' && sum == headerSum(p)
}

// octal reads a number of octal digits, all but the last byte of p, which is NUL.
func octal(p []byte) (int64, bool) {
	var v int64
	n := len(p) - 1
	for _, c := range p[:n] {
		if c -= '0'; c > 7 {
			return 0, false
		}
		v = v<<3 | int64(c)
	}
	return v, p[n] == 0
}

// octalOrNone is octal, or 0 for a field of zeros.
func octalOrNone(p []byte) (int64, bool) {
	if binary.LittleEndian.Uint64(p) == 0 {
		return 0, true
	}
	return octal(p)
}

// headerSum adds up the bytes of a header, those of the sum itself as spaces.
func headerSum(p *[tarBlock]byte) int64 {
	// Four sums of 16 bits at a time: 128 bytes of at most 255 in each.
	const low = 0x00ff00ff00ff00ff
	var even, odd uint64
	for i := 0; i < tarBlock; i += 8 {
		v := binary.LittleEndian.Uint64(p[i:])
		even += v & low
		odd += v >> 8 & low
	}
	sum := int64(8 * ' ')
	for range 4 {
		sum += int64(even&0xffff + odd&0xffff)
		even, odd = even>>16, odd>>16
	}
	for _, c := range p[tarSum : tarSum+8] {
		sum -= int64(c)
	}
	return sum
}

// tarString is the text of a field, up to the first NUL.
func tarString(p []byte) string { return tarStringOr("", p) }

// tarStringOr is tarString, in the memory of like if that is the same.
func tarStringOr(like string, p []byte) string {
	if i := bytes.IndexByte(p, 0); i >= 0 {
		p = p[:i]
	}
	if string(p) == like {
		return like
	}
	return string(p)
}

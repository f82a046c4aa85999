// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bytes"
	"strings"
	"time"
)

// paxType is the type of the header of PAX records, which come before an entry's own
// header. See POSIX.1-2001, pax Extended Header.
const paxType = 'x'

// paxEntry reads an entry that begins with PAX records, if all its headers are at
// hand in p and of the plain form, and the records are such as nearly all have. It
// sets e to what archive/tar and entryOf would make of it, but for the offset, and
// returns the size of the headers; 0 says that p may be anything, and e as well.
func paxEntry(p []byte, e *Entry) int {
	if len(p) < tarBlock || p[tarType] != paxType {
		return 0
	}
	h, ok := headerNumbers((*[tarBlock]byte)(p))
	if !ok || h.size > int64(len(p)) {
		return 0
	}
	at := tarBlock + int(align(h.size))
	if len(p) < at+tarBlock || !plainHeader((*[tarBlock]byte)(p[at:]), e) || !paxRecords(p[tarBlock:][:h.size], e) || e.check() != nil {
		return 0
	}
	return at + tarBlock
}

// paxRecords applies records to e. It reports false if there is one that says where
// data are, is malformed, or is there twice.
func paxRecords(p []byte, e *Entry) bool {
	for len(p) > 0 {
		key, value, n := paxRecord(p)
		if n == 0 {
			return false
		}
		p = p[n:]
		r := Record{Value: string(value)}
		switch string(key) {
		case "path":
			r.Key, e.Name = "path", r.Value
		case "linkpath":
			r.Key, e.Linkname = "linkpath", r.Value
		case "uname":
			r.Key, e.Uname = "uname", r.Value
		case "gname":
			r.Key, e.Gname = "gname", r.Value
		case "mtime":
			sec, nsec, ok := paxTimeOf(value)
			if !ok {
				return false
			}
			r.Key, e.ModTime = "mtime", time.Unix(sec, nsec).UTC()
		case "atime", "ctime":
			if _, _, ok := paxTimeOf(value); !ok {
				return false
			}
			r.Key = string(key)
		case "uid", "gid", "size":
			return false
		default:
			if r.Key = string(key); strings.HasPrefix(r.Key, "GNU.sparse.") || strings.IndexByte(r.Key, 0) >= 0 {
				return false
			}
		}
		if !e.addRecord(r) {
			return false
		}
	}
	return true
}

// maxPlainRecords bounds the PAX records of an entry that are read here, one by one.
const maxPlainRecords = 64

// addRecord adds r in the order of keys. It reports false if there is one of its key,
// or if there are too many.
func (e *Entry) addRecord(r Record) bool {
	i := len(e.PAX)
	if i == maxPlainRecords {
		return false
	}
	for i > 0 && e.PAX[i-1].Key > r.Key {
		i--
	}
	if i > 0 && e.PAX[i-1].Key == r.Key {
		return false
	}
	e.PAX = append(e.PAX, r)
	copy(e.PAX[i+1:], e.PAX[i:])
	e.PAX[i] = r
	return true
}

// paxRecord returns the first record of p, whose length is n; 0 if it is malformed,
// or its value empty, which says that there is no record.
func paxRecord(p []byte) (key, value []byte, n int) {
	const maxDigits = 7
	i := 0
	for ; i < min(len(p), maxDigits) && p[i]-'0' <= 9; i++ {
		n = n*10 + int(p[i]-'0')
	}
	if n > len(p) || i+1 >= n || p[0] == '0' || p[i] != ' ' || p[n-1] != '\n' {
		return nil, nil, 0
	}
	key, value, _ = bytes.Cut(p[i+1:n-1], []byte{'='})
	if len(key) == 0 || len(value) == 0 {
		return nil, nil, 0
	}
	return key, value, n
}

// paxTimeOf reads a time of seconds since 1970, with or without a fraction, as it is
// written of a file: not before that, and of no more than nine digits behind the point.
func paxTimeOf(p []byte) (sec, nsec int64, ok bool) {
	const maxDigits, fraction = 11, 9
	i := 0
	for ; i < len(p) && p[i]-'0' <= 9; i++ {
		sec = sec*10 + int64(p[i]-'0')
		if i == maxDigits {
			return 0, 0, false
		}
	}
	if i == 0 || i == len(p) {
		return sec, 0, i > 0
	}
	digits := p[i+1:]
	if p[i] != '.' || len(digits) == 0 || len(digits) > fraction {
		return 0, 0, false
	}
	for i := range fraction {
		nsec *= 10
		if i < len(digits) {
			c := digits[i] - '0'
			if c > 9 {
				return 0, 0, false
			}
			nsec += int64(c)
		}
	}
	return sec, nsec, true
}

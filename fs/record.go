// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// nodeLayout is the version of what a node id means: which slot and which number in
// the tree of a TOC. The kernel remembers node ids for longer than a process lives, so
// that one of another layout must not serve a mount: it would give wrong bytes.
const nodeLayout = 1

// record is what a process has to know of a mount to take it over.
type record struct {
	dev     uint64 // device number of the mount
	layout  uint32 // nodeLayout of the process that made it
	maxRead uint32 // what the kernel may ask for in a READ
	request []byte // the kernel's first request
	reply   []byte // what it was answered
}

// A record on its way is recordMagic, and fields: a tag and a length of 4 bytes each,
// little-endian, and as many bytes. Who finds a tag that it does not know skips it.
const (
	recordMagic   = "soci-fuse mount\n"
	tagDev        = 1
	tagLayout     = 2
	tagMaxRead    = 3
	tagRequest    = 4
	tagReply      = 5
	maxFieldSize  = 4096
	maxRecordSize = 64 << 10
)

var errRecord = errors.New("record of the mount is damaged")

func (r *record) marshal() []byte {
	p := []byte(recordMagic)
	field := func(tag uint32, b []byte) {
		p = binary.LittleEndian.AppendUint32(p, tag)
		p = binary.LittleEndian.AppendUint32(p, uint32(len(b)))
		p = append(p, b...)
	}
	field(tagDev, binary.LittleEndian.AppendUint64(nil, r.dev))
	field(tagLayout, binary.LittleEndian.AppendUint32(nil, r.layout))
	field(tagMaxRead, binary.LittleEndian.AppendUint32(nil, r.maxRead))
	field(tagRequest, r.request)
	field(tagReply, r.reply)
	return p
}

// parseRecord reads what marshal of this or another version has written.
func parseRecord(p []byte) (*record, error) {
	if len(p) < len(recordMagic) || len(p) > maxRecordSize || string(p[:len(recordMagic)]) != recordMagic {
		return nil, errRecord
	}
	r := &record{}
	for p = p[len(recordMagic):]; len(p) > 0; {
		if len(p) < 8 {
			return nil, errRecord
		}
		tag, n := binary.LittleEndian.Uint32(p), binary.LittleEndian.Uint32(p[4:])
		if p = p[8:]; n > maxFieldSize || int(n) > len(p) {
			return nil, errRecord
		}
		b := p[:n]
		p = p[n:]
		switch {
		case tag == tagDev && n == 8:
			r.dev = binary.LittleEndian.Uint64(b)
		case tag == tagLayout && n == 4:
			r.layout = binary.LittleEndian.Uint32(b)
		case tag == tagMaxRead && n == 4:
			r.maxRead = binary.LittleEndian.Uint32(b)
		case tag == tagRequest:
			r.request = b
		case tag == tagReply:
			r.reply = b
		case tag <= tagReply:
			return nil, errRecord
		}
	}
	if r.dev == 0 || len(r.request) < int(unsafe.Sizeof(fuse.InitIn{})) || len(r.request) > requestSize ||
		len(r.reply) < headerSize+int(unsafe.Sizeof(fuse.InitOut{})) {
		return nil, errRecord
	}
	return r, nil
}

// agreed returns the capabilities that the reply grants.
func agreed(reply []byte) uint64 {
	le := binary.LittleEndian // as go-fuse, this is for little-endian machines
	at := headerSize + int(unsafe.Offsetof(fuse.InitOut{}.Flags))
	low := le.Uint32(reply[at:])
	at = headerSize + int(unsafe.Offsetof(fuse.InitOut{}.Flags2))
	return uint64(low) | uint64(le.Uint32(reply[at:]))<<32
}

// serves returns an error if this process cannot serve the mount.
func (r *record) serves() error {
	switch {
	case r.layout != nodeLayout:
		return fmt.Errorf("its node ids are of layout %d, those of this version of layout %d", r.layout, nodeLayout)
	case r.maxRead > maxRead:
		return fmt.Errorf("its reads are of up to %d bytes, those of this version of %d", r.maxRead, maxRead)
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The types of messages. A client sends one of the first, and gets one of the others.
const (
	msgHello = 1 // the client is the daemon now: tagGrace, tagGuard
	msgHold  = 2 // hold this: tagState, and a descriptor
	msgDrop  = 3 // let go of what is held

	msgOK      = 64 // to a hello: tagState and a descriptor if something is held, and tagStats
	msgBusy    = 65 // another daemon is connected
	msgUnknown = 66 // the holder is of a version that does not know the type
	msgFailed  = 67 // tagError
)

// The tags of fields.
const (
	tagState = 1
	tagGrace = 2 // nanoseconds
	tagGuard = 3 // nanoseconds
	tagStats = 4 // 8 bytes for each counter
	tagError = 5
)

// maxMessage bounds a message.
const maxMessage = 128 << 10

var errMessage = errors.New("malformed message")

// message is what client and holder say to each other: a byte for the type and then
// fields, which are a tag and a length of 4 bytes each, little-endian, and as many bytes.
type message struct {
	kind   byte
	fields map[uint32][]byte
}

func (m message) marshal() []byte {
	p := []byte{m.kind}
	for tag, b := range m.fields {
		p = binary.LittleEndian.AppendUint32(p, tag)
		p = binary.LittleEndian.AppendUint32(p, uint32(len(b)))
		p = append(p, b...)
	}
	return p
}

// parse reads a message. Of fields of the same tag the last one counts.
func parse(p []byte) (message, error) {
	m := message{fields: make(map[uint32][]byte)}
	if len(p) == 0 {
		return m, errMessage
	}
	m.kind = p[0]
	for p = p[1:]; len(p) > 0; {
		if len(p) < 8 {
			return m, errMessage
		}
		tag, n := binary.LittleEndian.Uint32(p), binary.LittleEndian.Uint32(p[4:])
		if p = p[8:]; uint64(n) > uint64(len(p)) {
			return m, errMessage
		}
		m.fields[tag], p = p[:n:n], p[n:]
	}
	return m, nil
}

// number returns a field of 8 bytes, 0 if there is none.
func (m message) number(tag uint32) int64 {
	b := m.fields[tag]
	if len(b) != 8 {
		return 0
	}
	return int64(binary.LittleEndian.Uint64(b))
}

func number(n int64) []byte { return binary.LittleEndian.AppendUint64(nil, uint64(n)) }

// err returns what a reply says that went wrong.
func (m message) err() error {
	switch m.kind {
	case msgOK:
		return nil
	case msgBusy:
		return ErrBusy
	case msgUnknown:
		return errors.New("the holder is of a version that cannot do that")
	case msgFailed:
		return fmt.Errorf("the holder says: %q", m.fields[tagError])
	}
	return fmt.Errorf("the holder answers with a message of type %d", m.kind)
}

// counters are what the holder counts, in the order in which they are sent.
type counters struct {
	guards, resends, killed, failed int64
}

func (c counters) marshal() []byte {
	var p []byte
	for _, n := range []int64{c.guards, c.resends, c.killed, c.failed} {
		p = append(p, number(n)...)
	}
	return p
}

// parseCounters reads what marshal of this or another version has written.
func parseCounters(p []byte) counters {
	var c counters
	for _, n := range []*int64{&c.guards, &c.resends, &c.killed, &c.failed} {
		if len(p) < 8 {
			break
		}
		*n = int64(binary.LittleEndian.Uint64(p))
		p = p[8:]
	}
	return c
}

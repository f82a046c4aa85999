// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"bytes"
	"maps"
	"testing"
)

// FuzzMessage: what comes through the socket is a message that says the same when it is sent on, or none.
func FuzzMessage(f *testing.F) {
	f.Add(message{kind: msgOK, fields: map[uint32][]byte{tagState: []byte("s"), tagGrace: number(-1), tagStats: counters{1, 2, 3, 4}.marshal()}}.marshal())
	f.Add([]byte{msgFailed, tagError, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		m, err := parse(p)
		if err != nil {
			return
		}
		_, _, _ = m.number(tagGrace), m.number(tagGuard), m.err()
		if c := parseCounters(m.fields[tagStats]); len(m.fields[tagStats]) >= 32 && !bytes.HasPrefix(m.fields[tagStats], c.marshal()) {
			t.Errorf("counters %+v of %x", c, m.fields[tagStats])
		}
		again, err := parse(m.marshal())
		if err != nil || again.kind != m.kind || !maps.EqualFunc(again.fields, m.fields, bytes.Equal) {
			t.Errorf("message %+v is %+v, %v", m, again, err)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package registry

import "time"

// maxSent is how many ranges a Blob knows the senders of: more than are read at once.
const maxSent = 256

// sent is who has sent what of a blob, the latest last. Older entries make room.
type sent []sending

type sending struct {
	span
	host   string
	mirror bool
}

// note notes that ep answers a request for sp.
func (b *Blob) note(ep endpoint, sp span) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.sent) >= maxSent {
		b.sent = append(b.sent[:0], b.sent[maxSent/2:]...)
	}
	b.sent = append(b.sent, sending{sp, ep.host, ep.mirror})
}

// Distrust says that bytes among the n at off, as they were read last, are not the blob's.
// A mirror that has sent any of them is not asked for this blob for half a minute, and a
// redirect that led to them is not followed without asking anew. It reports whether others
// will be asked now.
func (b *Blob) Distrust(off, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	others := false
	kept := b.sent[:0]
	for _, s := range b.sent {
		if s.off >= off+n || off >= s.off+s.n {
			kept = append(kept, s)
			continue
		}
		delete(b.final, s.host)
		if s.mirror {
			b.miss[s.host] = time.Now().Add(missFor)
			others = true
		}
	}
	b.sent = kept
	return others
}

// SPDX-License-Identifier: Apache-2.0

package snapshotter

import "slices"

// distruster is a blob that may be had from elsewhere. *registry.Blob is one.
type distruster interface {
	// Distrust says that the n bytes at off were wrong, and reports whether others will
	// be asked for them now.
	Distrust(off, n int64) bool
}

// maxSent is how many answers a layerSource knows the senders of: more than are read at once.
const maxSent = 256

// sender is where an answer, or a download, has come from.
type sender struct {
	from  blob
	whole *download // nil if a range was asked for
	wrong bool      // it has sent wrong bytes; guarded by layerSource.mu
}

// sending is what one reader was sent from one place.
type sending struct {
	read     uint64 // number of the reader
	off, end int64
	by       *sender
}

// note notes that a reader is sent what it wants from off on by somebody, and no more by who sent it before.
func (s *layerSource) note(r *sourceReader, by *sender) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.read == 0 {
		s.reads++
		r.read = s.reads
	}
	for i, was := range s.sent {
		if was.read == r.read && was.end > r.off {
			s.sent[i].end = r.off
		}
	}
	if len(s.sent) >= maxSent {
		s.sent = slices.Delete(s.sent, 0, maxSent/2)
	}
	s.sent = append(s.sent, sending{r.read, r.off, r.end, by})
}

// Distrust says that bytes among the n at off, as they were read last, are not the layer's. Where
// the repository that sent them has no other mirror to ask, the next repository is asked first from
// now on. One answer has many spans: what is done about the first of them is not undone by the second.
func (s *layerSource) Distrust(off, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The last one that has sent most of them: two spans may have a byte in common.
	var by *sender
	var most int64
	for _, was := range slices.Backward(s.sent) {
		if m := min(was.end, off+n) - max(was.off, off); m > most {
			by, most = was.by, m
		}
	}
	if by == nil {
		return
	}
	d, ok := by.from.(distruster)
	others := ok && d.Distrust(off, n)
	if by.wrong {
		return
	}
	by.wrong = true
	if by.whole != nil {
		s.retire(by.whole)
	}
	if !others && len(s.blobs) > 1 && s.blobs[0] == by.from {
		s.names = append(slices.Clone(s.names[1:]), s.names[0])
		s.blobs = append(slices.Clone(s.blobs[1:]), s.blobs[0])
	}
}

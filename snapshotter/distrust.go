// SPDX-License-Identifier: Apache-2.0

package snapshotter

// distruster is a blob that may be had from elsewhere. *registry.Blob is one.
type distruster interface {
	// Distrust says that the n bytes at off were wrong, and reports whether others will
	// be asked for them now.
	Distrust(off, n int64) bool
}

// Distrust says that the n bytes at off, as they were read last, are not the layer's. Where
// the repository has no other mirror to ask, the next repository is asked first from now on.
func (s *layerSource) Distrust(off, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.whole != nil {
		s.retire(s.whole) // it was from one place
	}
	others := false
	for _, b := range s.blobs {
		if d, ok := b.(distruster); ok && d.Distrust(off, n) {
			others = true
		}
	}
	if last := len(s.blobs) - 1; !others && last > 0 {
		s.names = append(append([]string(nil), s.names[1:]...), s.names[0])
		s.blobs = append(append([]blob(nil), s.blobs[1:]...), s.blobs[0])
	}
}

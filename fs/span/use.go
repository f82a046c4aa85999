// SPDX-License-Identifier: Apache-2.0

package span

import "time"

// Use is what a layer is to whoever opened it, which decides what is evicted first.
type Use int

// The uses. Of each, what is not complete goes before what is.
const (
	Unused Use = iota // by nobody, at the moment
	InUse             // its files are read, or may be any moment
	Keep              // not to be evicted: it cannot be fetched anew, or not in parts
)

// clock returns the seconds since the store was opened, from 1 on.
func (s *Store) clock() uint32 { return seconds(time.Since(s.calm.base)) }

func seconds(d time.Duration) uint32 { return uint32(d/time.Second) + 1 }

// use notes that somebody reads of the spans first to last.
func (l *Layer) use(first, last int) {
	now := seconds(l.store.calm.note())
	if l.used.Load() != now { // it is shared by all who read
		l.used.Store(now)
	}
	for i := first; i <= last; i++ {
		if l.ages[i].Load() != now {
			l.ages[i].Store(now)
		}
	}
}

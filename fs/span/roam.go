// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"sync"
	"time"
)

const (
	// farAway is how long a source takes to answer from where on its line is idle most of
	// the time while a container starts, and what lies around is worth fetching: in a
	// replay of the reads of an "import torch" at 1 Gbit/s and 5 ms it saves 38 % of the
	// time, at 30 ms 44 %, at 0.3 ms nothing.
	farAway = 2 * time.Millisecond
	// answers is how many of the last answers are looked at, of which the soonest counts:
	// the others may have waited for something else.
	answers    = 8
	minAnswers = 4

	// One request at a time or a larger one leaves the line idle more, or keeps readers
	// waiting; more bytes around are not wanted any sooner than by another way.
	roamRequests = 2
	roamSize     = 512 << 10 // compressed bytes of a request
	roamReach    = 16 << 20  // uncompressed bytes on either side
	roamFree     = 32 << 20  // compressed bytes that may be wrong before anything is known
	roamShare    = 2         // times what was asked for may be wrong later
)

// latency is how long a source takes to answer.
type latency struct {
	mu   sync.Mutex // guards what follows
	last [answers]time.Duration
	n    int
}

func (a *latency) note(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last[a.n%answers] = d
	a.n++
}

// far reports whether the source is far away, as far as that is known.
func (a *latency) far() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.n < minAnswers {
		return false
	}
	for _, d := range a.last[:min(a.n, answers)] {
		if d < farAway {
			return false
		}
	}
	return true
}

// roaming is the fetching of what lies around the last span that a reader came to.
// Guarded by Layer.mu.
type roaming struct {
	at     int // that span
	active int // requests under way
}

// roams reports whether to fetch what lies around the spans first to last, which a reader
// asks for the first time. Where a profile lists them, it lists what comes next, too.
func (l *Layer) roams(first, last int) bool {
	return !l.touched.bits.all(first, last) && !l.listed.all(first, last) && l.latency.far() && l.store.opts.Around > 0 &&
		!l.roamed.wrong(roamFree, roamShare*l.guesses.demanded.Load())
}

// roam fetches what lies around span at. The caller holds l.mu.
func (l *Layer) roam(ctx context.Context, at int) {
	l.roaming.at = at
	for l.over == nil && l.roaming.active < roamRequests {
		near := l.around(at)
		fs := l.absent(nil, near)
		if len(fs) == 0 {
			return
		}
		for _, f := range fs {
			if l.roamed.bits.set(f.span) {
				l.roamed.made.Add(l.zi.Spans[f.span].In.Len)
			}
		}
		l.roaming.active++
		l.spawn(ctx, l.newRequest(fs, prefetch), func(its context.Context, req *request) {
			err := l.fetch(its, req)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.roaming.active--
			if err == nil && !l.store.room.full() {
				l.roam(ctx, l.roaming.at)
			}
		})
	}
}

// around returns the spans nearest to span at that nobody has asked for, and that were not
// fetched like this before, for one request; none if there are none within reach. The caller holds l.mu.
func (l *Layer) around(at int) spans {
	fresh := func(i int) bool {
		// Once each: a span whose bytes are wrong, or cannot be kept, is absent again.
		return l.flights[i] == nil && l.spans[i].Load() == absent && l.zi.Spans[i].Out.Len > 0 && !l.roamed.bits.has(i)
	}
	reach := l.store.opts.Around
	for d := 1; d <= maxSpans; d++ {
		behind, before := at+d, at-d
		ahead := behind < len(l.zi.Spans) && l.extent(at+1, behind+1) <= reach
		back := before >= 0 && l.extent(before, at) <= reach
		switch {
		case ahead && fresh(behind):
			s := spans{behind, behind + 1}
			for s.to < len(l.zi.Spans) && fresh(s.to) && l.inLen(s) < roamSize && l.extent(at+1, s.to+1) <= reach {
				s.to++
			}
			return s
		case back && fresh(before):
			s := spans{before, before + 1}
			for s.from > 0 && fresh(s.from-1) && l.inLen(s) < roamSize && l.extent(s.from-1, at) <= reach {
				s.from--
			}
			return s
		case !ahead && !back:
			return spans{}
		}
	}
	return spans{}
}

// inLen is the number of compressed bytes of the spans.
func (l *Layer) inLen(s spans) int64 {
	return l.zi.Spans[s.to-1].In.End() - l.zi.Spans[s.from].In.Off
}

// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"math"
	"sync"
	"sync/atomic"

	"github.com/seekoci/seekoci/ztoc"
)

const (
	heads    = 16      // sequential readers of a layer that are told apart
	skipBack = 1 << 20 // reads of one readahead of the kernel overtake one another
	skipOver = 1 << 20 // and mapped files are read with gaps
	maxSpans = 1 << 10 // read ahead at once
	minRun   = 256 << 10
	minAhead = 256 << 10
	maxAhead = 32 << 20
	// firstAhead is the limit before anything is known of a layer's readers.
	firstAhead = 16 << 20

	// Of an "import torch" over a line of 1 Gbit/s with 5 ms to the registry these save
	// an eighth of the time, for a fifth more bytes. More of them, or larger ones, save
	// nothing.
	minGuess   = 16 << 10   // bytes of a read: databases read less, at random
	guessAhead = 1200 << 10 // behind what is read
	guessBack  = 700 << 10  // and before it
	freeGuess  = 4 << 20    // compressed bytes that may be wrong before anything is known
	wrongShare = 2          // of what was asked for, the part that may be wrong later

	// A library's first page says where its tables are, and those at its end are read
	// next; so is an archive's directory. In a replay of the same import's reads, this
	// saves a fifth of the waits for a hundredth more bytes.
	headSize = 4 << 10
	tailSize = 1 << 20
	// wholeSize is the size of a file that is brought as a whole, which saves another tenth.
	wholeSize = 4 << 20
	maxWhole  = 5 << 20 // with what else is in its spans
	maxTail   = 8 << 20
)

// spans are the spans from up to, but not including, to.
type spans struct{ from, to int }

func (s spans) none() bool { return s.from >= s.to }

// hints are spans that will be wanted soon: near ones, those of a file's end, and what
// lies around what is read.
type hints struct {
	near, tail spans
	around     bool
}

func (h hints) none() bool { return h.near.none() && h.tail.none() && !h.around }

// streams finds readers that go through a layer in order. All offsets are
// uncompressed ones.
type streams struct {
	mu        sync.Mutex // guards what follows
	heads     [heads]head
	clock     int64
	limit     int64 // of how far to read ahead: adapts to what it is worth
	postponed spans
}

// head is one sequential reader.
type head struct {
	used  int64 // clock of its last read; 0 means that there is none
	next  int64 // offset behind its last read
	run   int64 // bytes it has read in order
	large int64 // length of its largest read
	end   int64 // of the file it reads
	files int   // ends of files it has passed
	asked int   // span behind the last that was read ahead for it
	ahead int64 // bytes that were read ahead for it
}

// observe notes a read of [off, off+n) in a file that ends at end, and returns the
// spans to read ahead.
func (s *streams) observe(zi *ztoc.ZInfo, off, n, end int64) spans {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.postponed; !p.none() {
		s.postponed = spans{}
		return p // by the read that was told to come this way
	}
	s.clock++
	h := s.find(off)
	if h == nil {
		s.replace(zi, head{used: s.clock, next: off + n, run: n, large: n, end: end})
		return spans{}
	}
	h.used = s.clock
	if off >= h.end {
		h.files++
	}
	h.end = end
	if read := off + n - h.next; read > 0 {
		h.run += min(read, n)
		h.next = off + n
	}
	h.large = max(h.large, n)
	if h.run < minRun || h.run < 4*h.large {
		return spans{} // the kernel's own readahead around a random fault looks like this, too
	}
	window := min(h.run/2, s.limit)
	target := h.next + window
	if h.files < 2 {
		target = min(target, h.end)
	}
	return h.extend(zi, window, min(target, zi.UncompressedSize))
}

// extend returns the spans to read ahead up to target, unless half of the window
// has been asked for already. A span that is large against what was read in order
// is not worth it.
func (h *head) extend(zi *ztoc.ZInfo, window, target int64) spans {
	from := max(h.asked, zi.SpanAt(h.next-1)+1)
	if from >= len(zi.Spans) || zi.Spans[from].Out.Off-h.next > window/2 {
		return spans{}
	}
	to := from
	for ; to < len(zi.Spans) && to-from < maxSpans && zi.Spans[to].Out.Off < target && zi.Spans[to].Out.Len <= 2*h.run; to++ {
		h.ahead += zi.Spans[to].Out.Len
	}
	h.asked = max(h.asked, to)
	return spans{from, to}
}

// find returns the reader that a read at off continues.
func (s *streams) find(off int64) *head {
	var best *head
	nearest := int64(math.MaxInt64)
	for i := range s.heads {
		h := &s.heads[i]
		d := off - h.next
		if h.used == 0 || d > skipOver || d < -skipBack {
			continue
		}
		if d = max(d, -d); d < nearest {
			best, nearest = h, d
		}
	}
	return best
}

// replace puts h in the place of the reader that has not read for longest, and
// learns from what had been read ahead for that one.
func (s *streams) replace(zi *ztoc.ZInfo, h head) {
	last := &s.heads[0]
	for i := range s.heads {
		if s.heads[i].used < last.used {
			last = &s.heads[i]
		}
	}
	if last.ahead > 0 {
		unused := zi.Spans[last.asked-1].Out.End() - last.next
		if unused > last.ahead/4 {
			s.limit = max(s.limit/2, minAhead)
		} else {
			s.limit = min(s.limit*2, maxAhead)
		}
	}
	*last = h
}

// readAhead has spans fetched that nobody has asked for. The read is in span last.
func (l *Layer) readAhead(ctx context.Context, h hints, last int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over == nil {
		l.launch(ctx, l.absent(l.absent(nil, h.near), h.tail))
		if h.around {
			l.roam(ctx, last)
		}
	}
}

// ahead notes a read of [off, off+n), in the spans first to last, of a file, and
// returns the spans to read ahead.
func (l *Layer) ahead(off, n int64, file ztoc.Range, first, last int) hints {
	if l.missing.Load() == 0 {
		return hints{}
	}
	if s := l.streams.observe(l.zi, off, n, file.End()); !s.none() {
		return hints{near: s}
	}
	if n < minGuess {
		return hints{}
	}
	h := hints{around: l.roams(first, last)}
	if file.Len > 0 && file.Off >= 0 && file.Len <= l.zi.UncompressedSize-file.Off && !l.listed.all(first, last) &&
		!l.guesses.wrong(freeGuess, l.guesses.demanded.Load()/wrongShare) {
		h.near, h.tail = l.guess(off, file, first, last)
	}
	return h
}

// guess returns what a read of a file, in the spans first to last, makes likely to be
// wanted soon.
func (l *Layer) guess(off int64, file ztoc.Range, first, last int) (near, tail spans) {
	near, tail = l.guessNear(file, first, last), l.guessTail(off, file)
	l.noteGuess(spans{near.from, min(near.to, first)})
	l.noteGuess(spans{max(near.from, last+1), near.to})
	l.noteGuess(tail)
	return near, tail
}

// guessNear returns spans around a read that touches a span for the first time, and
// all of a small file. What is read by mapping, which is what libraries are, jumps
// about, but not far, and files that are used together lie together: every second
// span is wanted soon, and comes with the same request. Small reads do not.
func (l *Layer) guessNear(file ztoc.Range, first, last int) spans {
	if l.touched.bits.all(first, last) {
		return spans{}
	}
	s := spans{first, last + 1}
	for s.from > 0 && first-s.from < maxSpans && l.extent(s.from-1, first) <= guessBack {
		s.from--
	}
	for s.to < len(l.zi.Spans) && s.to-last <= maxSpans && l.extent(last+1, s.to+1) <= guessAhead {
		s.to++
	}
	from, to := l.zi.SpansOf(file)
	if file.Len <= wholeSize && to-from <= maxSpans && l.extent(from, to) <= maxWhole {
		s = spans{min(s.from, from), max(s.to, to)}
	}
	if s == (spans{first, last + 1}) {
		return spans{}
	}
	return s
}

// guessTail returns the spans of the end of a file whose head is read.
func (l *Layer) guessTail(off int64, file ztoc.Range) spans {
	if off-file.Off >= headSize || file.Len <= wholeSize {
		return spans{}
	}
	from, to := l.zi.SpansOf(ztoc.Range{Off: file.End() - tailSize, Len: tailSize})
	if to-from > maxSpans || l.extent(from, to) > maxTail {
		return spans{}
	}
	return spans{from, to}
}

// extent is the number of uncompressed bytes from span from up to span to.
func (l *Layer) extent(from, to int) int64 {
	return l.zi.Spans[to-1].Out.End() - l.zi.Spans[from].Out.Off
}

// guesses is what came of guess, in compressed bytes.
type guesses struct {
	bits                  bitmap // spans that were guessed
	made, right, demanded atomic.Int64
}

// wrong reports whether more was guessed that nobody wanted than may be.
func (g *guesses) wrong(free, more int64) bool {
	return g.made.Load()-g.right.Load() > free+more
}

// noteGuess notes which spans are guessed.
func (l *Layer) noteGuess(s spans) {
	for i := s.from; i < s.to; i++ {
		if l.spans[i].Load() == absent && !l.touched.bits.has(i) && l.guesses.bits.set(i) {
			l.guesses.made.Add(l.zi.Spans[i].In.Len)
		}
	}
}

// touch notes that readers ask for the spans first to last.
func (l *Layer) touch(first, last int) {
	for i := first; i <= last; i++ {
		if !l.touched.note(i) {
			continue
		}
		n := l.zi.Spans[i].In.Len
		l.guesses.demanded.Add(n)
		if l.guesses.bits.has(i) {
			l.guesses.right.Add(n)
		}
		if l.roamed.bits.has(i) {
			l.roamed.right.Add(n)
		}
	}
}

// passive notes a read of present bytes that does not come through ReadFile. It
// returns false if it had better: there may be something to be read ahead.
func (l *Layer) passive(off, n, end int64, first, last int) bool {
	if l.wrong.Load() != nil {
		return false
	}
	if l.missing.Load() == 0 {
		l.touch(first, last)
		return true
	}
	if !l.touched.bits.all(first, last) {
		return false
	}
	s := l.streams.observe(l.zi, off, n, end)
	if !s.none() {
		l.streams.postpone(s)
	}
	return s.none()
}

// postpone keeps what observe has returned for the next one who calls it.
func (s *streams) postpone(p spans) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.postponed = p
}

// absent appends to fs new flights for those of the spans that nobody has asked
// for. The caller holds l.mu.
func (l *Layer) absent(fs []*flight, s spans) []*flight {
	for i := s.from; i < s.to; i++ {
		if l.flights[i] == nil && l.spans[i].Load() == absent && l.zi.Spans[i].Out.Len > 0 {
			fs = append(fs, l.begin(i))
		}
	}
	return fs
}

// SPDX-License-Identifier: Apache-2.0

package span

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/seekoci/seekoci/ztoc"
)

// The states of a span on disk.
const (
	absent   = iota
	recorded // by an earlier run; to be checked against its CRC32C before use
	present
)

// diskTries bounds how often one read goes back to a disk that loses spans.
const diskTries = 3

// Layer is one layer's spans. It is safe for concurrent use.
type Layer struct {
	store    *Store
	key      string
	zi       *ztoc.ZInfo
	identity identity
	src      Source
	disk     *disk
	mending  sync.Mutex
	spans    []atomic.Uint32 // absent, recorded or present
	sums     map[int]uint32  // CRC32C of the spans that were recorded at open
	missing  atomic.Int64    // spans that are not present
	onDisk   atomic.Int64    // uncompressed bytes of those that are not absent
	unsynced unsynced
	reading  sync.RWMutex    // held to read what is present, and exclusively to have it present no more
	ages     []atomic.Uint32 // Store.clock when a span was last read
	used     atomic.Uint32   // and any of them
	answered atomic.Uint32   // and when the source last delivered one
	silence  atomic.Uint32   // one second after it was last asked whether it would, and did not
	grown    grown
	touched  touched
	listed   bitmap // spans that Prefetch was told of
	streams  streams
	guesses  guesses
	roamed   guesses // by roam; of what is demanded guesses knows
	latency  latency
	stats    counters
	filling  urgency // of Fill, and of digests

	handles int // guarded by Store.mu

	// refs counts the reads, requests and jobs under way, plus one while there are
	// handles. idle is closed when it reaches zero.
	refs atomic.Int64
	idle chan struct{}

	mu      sync.Mutex      // guards what follows and all flights, reads and requests of the layer
	flights map[int]*flight // by span id: spans on their way
	queued  []*request      // that have not started yet
	roaming roaming
	running map[*request]struct{}
	tasks   map[*task]struct{}
	over    error                 // why nothing is to be fetched any more
	wrong   atomic.Pointer[error] // set by Condemn
}

// counters are the atomics behind Stats.
type counters struct {
	recorded, fetched, requests, bytesFetched, bytesServed, fetchErrors, writeErrors atomic.Int64
}

// Stats is a copy of a layer's counters.
type Stats struct {
	Spans         int   // of the layer
	SpansPresent  int   // on disk
	SpansFetched  int64 // since Open
	Requests      int64 // range requests made
	BytesFetched  int64 // compressed bytes fetched since Open
	BytesServed   int64 // uncompressed bytes read by ReadAt
	CompressedLen int64 // bytes of the compressed layer
	FetchErrors   int64 // requests and spans that did not yield verified bytes; cancelled ones not counted
	WriteErrors   int64 // spans that could not be written to disk
}

func newLayer(s *Store, key string, zi *ztoc.ZInfo, id identity, src Source) (*Layer, error) {
	size := zi.UncompressedSize
	for i := range zi.Spans {
		if sp := &zi.Spans[i]; sp.Out.Len > 0 {
			size = max(size, sp.Out.End())
		}
	}
	// A byte more, so that a write of the last span does not hide that the file was cut off before.
	d, sums, err := openDisk(filepath.Join(s.dir, key), id, len(zi.Spans), size+1)
	if err != nil {
		return nil, err
	}
	s.calm.opened()
	l := &Layer{
		store:    s,
		key:      key,
		zi:       zi,
		identity: id,
		src:      src,
		disk:     d,
		spans:    make([]atomic.Uint32, len(zi.Spans)),
		ages:     make([]atomic.Uint32, len(zi.Spans)),
		sums:     sums,
		touched:  touched{bits: newBitmap(len(zi.Spans))},
		listed:   newBitmap(len(zi.Spans)),
		guesses:  guesses{bits: newBitmap(len(zi.Spans))},
		roamed:   guesses{bits: newBitmap(len(zi.Spans))},
		streams:  streams{limit: firstAhead},
		handles:  1,
		idle:     make(chan struct{}),
		flights:  make(map[int]*flight),
		tasks:    make(map[*task]struct{}),
		running:  make(map[*request]struct{}),
	}
	l.refs.Store(1)
	l.filling.c.Store(uint32(background))
	l.used.Store(s.clock())
	for i := range zi.Spans {
		_, ok := sums[i]
		switch {
		case zi.Spans[i].Out.Len == 0:
			l.spans[i].Store(present) // there is nothing to fetch
			l.stats.recorded.Add(1)
			continue
		case ok:
			l.spans[i].Store(recorded)
			l.stats.recorded.Add(1)
			l.account(zi.Spans[i].Out.Len)
		}
		l.missing.Add(1)
	}
	return l, nil
}

// Size is the number of uncompressed bytes of the layer.
func (l *Layer) Size() int64 { return l.zi.UncompressedSize }

// ReadAt fills p with the layer's uncompressed bytes at off, all of them or an
// error: ErrRange, ErrClosed, ctx's, or an *Error. p must not be touched
// before ReadAt returns.
func (l *Layer) ReadAt(ctx context.Context, p []byte, off int64) error {
	return l.ReadFile(ctx, p, off, ztoc.Range{Len: l.zi.UncompressedSize})
}

// ReadFile is ReadAt for bytes of a file: who reads one in order will not go on
// behind it, and who reads where it begins may soon want its end. The file must lie
// in the layer.
func (l *Layer) ReadFile(ctx context.Context, p []byte, off int64, file ztoc.Range) error {
	n := int64(len(p))
	if off < 0 || n > l.zi.UncompressedSize-off {
		return fmt.Errorf("read [%d,+%d) of %s: %w", off, n, l.key, ErrRange)
	}
	if n == 0 {
		return nil
	}
	if !l.enter() {
		return fmt.Errorf("read [%d,+%d) of %s: %w", off, n, l.key, ErrClosed)
	}
	defer l.leave()
	if wrong := l.wrong.Load(); wrong != nil {
		return fmt.Errorf("read [%d,+%d) of %s: %w", off, n, l.key, *wrong)
	}
	first, last := l.zi.SpanAt(off), l.zi.SpanAt(off+n-1)
	l.use(first, last)
	h := l.ahead(off, n, file, first, last)
	l.touch(first, last)
	if l.store.room.full() {
		h = hints{} // there is nowhere to put it
	}
	if ok, err := l.readLocal(p, off, first, last); ok && err == nil {
		if !h.none() {
			l.readAhead(ctx, h, last)
		}
	} else if err := l.readPieces(ctx, l.cut(p, off, first, last), h); err != nil {
		return err
	}
	l.stats.bytesServed.Add(n)
	return nil
}

// present reports whether the spans first to last are on disk and checked.
func (l *Layer) present(first, last int) bool {
	for i := first; i <= last; i++ {
		if l.spans[i].Load() != present {
			return false
		}
	}
	return true
}

// readLocal fills p from disk, unless not all of the spans first to last, in which it
// lies, are there and checked: then it reports false.
func (l *Layer) readLocal(p []byte, off int64, first, last int) (bool, error) {
	l.reading.RLock()
	defer l.reading.RUnlock()
	if !l.present(first, last) {
		return false, nil
	}
	return true, l.disk.read(p, off)
}

// piece is the part of a read that lies within one span.
type piece struct {
	span int
	from int64 // in the span
	p    []byte
}

// cut splits a read at span borders.
func (l *Layer) cut(p []byte, off int64, first, last int) []piece {
	ps := make([]piece, 0, last-first+1)
	for i := first; i <= last; i++ {
		out := l.zi.Spans[i].Out
		n := min(out.End()-off, int64(len(p)))
		if n == 0 {
			continue // an empty span
		}
		ps = append(ps, piece{span: i, from: off - out.Off, p: p[:n]})
		p, off = p[n:], off+n
	}
	return ps
}

// readPieces fills the pieces: from the spans on their way, and from disk. A span
// that the disk does not give back is fetched again. Those of h are fetched with
// them, and not waited for.
func (l *Layer) readPieces(ctx context.Context, todo []piece, h hints) error {
	for try := 1; ; try++ {
		local, err := l.readFlights(ctx, todo, h)
		if err != nil {
			return err
		}
		todo, h = todo[:0], hints{}
		for _, pc := range local {
			ok, e := l.readLocal(pc.p, l.zi.Spans[pc.span].Out.Off+pc.from, pc.span, pc.span)
			if ok && e == nil {
				continue
			}
			if ok {
				err = &Error{Layer: l.key, Span: pc.span, Err: e}
				l.mark(pc.span, present, absent)
			} // else it has just been evicted
			todo = append(todo, pc)
		}
		if len(todo) == 0 {
			return nil
		}
		if try >= diskTries && err != nil {
			return err
		}
	}
}

// mark notes what has become of a span on disk, unless somebody else has.
func (l *Layer) mark(i int, from, to uint32) {
	if !l.spans[i].CompareAndSwap(from, to) {
		return
	}
	switch {
	case from == present:
		l.missing.Add(1)
	case to == present:
		l.missing.Add(-1)
		l.grown.tell()
	}
	switch {
	case from == absent:
		l.stats.recorded.Add(1)
		l.account(l.zi.Spans[i].Out.Len)
	case to == absent:
		l.stats.recorded.Add(-1)
		l.account(-l.zi.Spans[i].Out.Len)
	}
}

// account notes that n bytes of spans more are on disk.
func (l *Layer) account(n int64) {
	l.onDisk.Add(n)
	l.store.room.bytes.Add(n)
}

// Stats returns the layer's counters.
func (l *Layer) Stats() Stats {
	return Stats{
		Spans:         len(l.spans),
		SpansPresent:  int(l.stats.recorded.Load()),
		SpansFetched:  l.stats.fetched.Load(),
		Requests:      l.stats.requests.Load(),
		BytesFetched:  l.stats.bytesFetched.Load(),
		BytesServed:   l.stats.bytesServed.Load(),
		CompressedLen: l.zi.CompressedSize,
		FetchErrors:   l.stats.fetchErrors.Load(),
		WriteErrors:   l.stats.writeErrors.Load(),
	}
}

// Retain adds a handle to the layer, to be given back with Close. It returns
// ErrClosed if the layer has no handle left.
func (l *Layer) Retain() error {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	if l.handles == 0 {
		return fmt.Errorf("retain spans of %s: %w", l.key, ErrClosed)
	}
	l.handles++
	return nil
}

// Close gives back a handle. With the last one, reads under way end with ErrClosed,
// their requests are cancelled, and Close returns when all of them have ended.
func (l *Layer) Close() error {
	s := l.store
	s.mu.Lock()
	if l.handles == 0 {
		s.mu.Unlock()
		return fmt.Errorf("close spans of %s: %w", l.key, ErrClosed)
	}
	l.handles--
	last := l.handles == 0
	if last {
		s.drop(l)
	}
	s.mu.Unlock()
	if !last {
		return nil
	}
	return l.shutdown()
}

// shutdown ends what is under way and closes the files. It is called once, when no handle is left.
func (l *Layer) shutdown() error {
	l.stop(ErrClosed)
	l.leave()
	<-l.idle
	l.store.kept.forget(l)
	l.store.room.bytes.Add(-l.onDisk.Load())
	if err := l.disk.close(); err != nil {
		return fmt.Errorf("close spans of %s: %w", l.key, err)
	}
	return nil
}

// Condemn makes every read of the layer fail from now on, with an error that wraps
// err, and ends what is under way: for a layer that is not what it ought to be. It
// does not close the layer.
func (l *Layer) Condemn(err error) {
	l.wrong.CompareAndSwap(nil, &err)
	l.stop(err)
}

// stop fails all that is under way with err, and all that will be asked for.
func (l *Layer) stop(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = cmp.Or(l.over, err)
	for t := range l.tasks {
		t.cancel(err)
	}
	for req := range l.running {
		req.cancel()
	}
	for _, f := range l.flights {
		l.land(f, err)
	}
}

// enter keeps the files open until leave; it reports false if they are closed already.
func (l *Layer) enter() bool {
	for {
		n := l.refs.Load()
		if n == 0 {
			return false
		}
		if l.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (l *Layer) leave() {
	if l.refs.Add(-1) == 0 {
		close(l.idle)
	}
}

// SPDX-License-Identifier: Apache-2.0

// Package span is the store of a node's spans: what is fetched, verified and
// inflated once stays on disk and is read from there ever after.
//
// A [Store] is a directory with one subdirectory per layer. A [Layer] is one of
// those: a sparse file in uncompressed tar layout that fills span by span, as
// readers ask for bytes, or ahead of them. A span that is missing is fetched from
// the layer's [Source], checked against the zTOC's digest, inflated, handed to
// whoever waits for it and written down.
//
//	store, err := span.Open(dir, span.Options{})
//	layer, err := store.Layer(dgst.String(), z.ZInfo, blob)
//	err = layer.ReadAt(ctx, p, entry.Offset) // all of p, or an error
//	err = layer.Fill(ctx)                    // all of the layer
//
// # Limits
//
// A span larger than 256 MiB, compressed or not, is refused when the layer is
// opened ([ErrSpans]), and so are more spans than one for each KiB, beyond 4,096. Bytes
// on their way (compressed, and being inflated) stay
// below Options.MaxMemory, or what one span needs where that is more; spans that cannot
// be written take a quarter of that besides. Spans on disk stay below Options.MaxBytes, but
// for those that are being written at the same moment.
//
// # Decisions
//
//   - One sparse file per layer, in tar layout: a read of a present range is one
//     pread whatever spans it crosses, no file is made per span or per entry, and
//     the same file can serve as a block of tar data later.
//   - The state file has one fixed slot of eight bytes per span: the CRC32C of
//     the span's bytes and a check of the slot itself. A torn slot does not match
//     its check, and counts as absent.
//   - No file is ever synced with its metadata. A slot is written after its bytes, so that a killed
//     process leaves no slot without bytes. After a power cut the disk may have
//     kept the slot and lost the bytes; that is why a slot from an earlier run is
//     believed only after the bytes on disk were read once and match its CRC32C.
//     The worst case is a span fetched twice, which is far cheaper than an fsync
//     per span.
//   - The state file names the zInfo it was written under, by a digest over all of
//     it, windows included, as other windows make other bytes. Under another
//     zInfo the layer starts empty.
//   - Bytes reach the readers from memory, before the span is written. A full, failing or
//     read-only disk therefore never costs an I/O error. What it refuses is kept in memory
//     for a while, as a reader wants a span in many pieces, and written when there is room again,
//     in files that are made then if they could not be made before, or opened for want of descriptors. Until then Fill, Prefetch and read-ahead wait, as what they bring could not be kept.
//   - A hole is made where spans are evicted, and their slots are cleared after that: killed in between, the
//     CRC32C does not match, while bytes without a slot would stay for ever. Who reads what is
//     present holds Layer.reading, so that there is no hole in what a reader is being given. What the kernel
//     has in the page cache of the mount stays, and is right: a span is a function of the layer.
//   - First goes what nobody uses and is not complete, then the same in use, then complete layers, of
//     each what was read least lately. A layer in use, or complete, is left alone unless its source
//     delivers a span first: it may be all that is left of the layer. For the sake of Options.Reserve nothing
//     goes that was read in the last ten minutes, or is complete and in use: a cache that grew
//     too large is not worth a container's time, and kubelet has unused images to remove.
//   - Options.MaxBytes and Options.Reserve do not make Fill evict: it takes what is to spare, else two
//     layers that do not fit would evict one another for ever.
//   - Once checked, bytes on disk are believed for as long as the process lives, as a
//     file system's are; a file that was cut off is noticed. The next process checks them again.
//   - A disk may take bytes and refuse them later, as a thin volume does that is full: the kernel drops them,
//     and there is a hole. A second after spans were written the keeper asks, which costs it a wait for the disk and the
//     readers none; on an error all that was written or checked since the last time is absent, and no layer
//     is complete, or digested, before it has been asked. For that second such a hole would be read as zeros.
//     File systems that do not know sync_file_range(2), overlayfs among them, tell nothing.
//   - A request is read as a stream: a span is decoded as soon as its own bytes are
//     there, while the next come in, and a reader is served as soon as the decoder
//     has come past the bytes it wants. The rest of the span, and writing it, come
//     after whatever other readers wait for.
//   - Readers come before Prefetch and read-ahead, and those before Fill, for
//     requests, memory and cores alike; Fill pauses while a reader waits, in the middle
//     of its requests, and while anybody reads at all: filling two gigabytes beside a
//     container that starts took four seconds from it. Half a minute is the longest it
//     makes way for reads of what is there, and five seconds for one whose registry sends nothing. A reader who wants what
//     is on its way already makes that as urgent as itself, and asks anew only for a
//     span that is far back in a stream. Who wants a whole layer (Layer.Hurry) makes its Fill a Prefetch.
//   - A container that finds its files in the page cache reads nothing here, but does
//     not like to share the cores: its run took 4.9 seconds instead of 2 beside two
//     layers that were filled. Its lookups count as reads, which Fill makes way for; and
//     where many threads want to run, Fill and Sum wait 50 ms for a core before each span.
//   - The kernel is told to write a span to disk at once, not half a minute later. The
//     unmount of a container's overlay, of which its exit waits, writes all that is
//     dirty of the file system below: 0.3 seconds after a start, and more beside Fill.
//   - Small gaps between wanted spans are fetched, too, and one request may serve
//     several reads: a request costs more than its bytes.
//   - Reading in order is found by offset, for 16 readers of a layer at once. Half of
//     what a reader has read in order is read ahead for it, so that at most a third
//     of what is fetched is wasted, and not beyond the end of its file before it has
//     gone from file to file in tar order. That does not begin before four reads:
//     the kernel reads a megabyte around a page fault in two pieces.
//   - Reading by mapping jumps about, in a file and in its neighbours. With a span that
//     is new come what lies around it, two megabytes in all or the file if it is a
//     small one, in the same request, and with a file's head its end, as long as what
//     came that way in vain stays below half of what was asked for.
//   - A source that takes long to answer leaves its line idle most of the time that a container
//     starts. There, what lies around the last span that a reader came to is fetched, two requests at
//     a time: files that are used together lie together. Fill would bring it in the end, but in its
//     own order, and not before nobody reads.
//   - A request belongs to its readers: when the last of them has left, its context
//     is cancelled. Nothing about a failure is remembered; the next reader asks
//     the source again.
package span

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/seekoci/seekoci/ztoc"
)

// Errors of this package.
var (
	// ErrClosed is returned for reads of a closed layer and by a closed store.
	ErrClosed = errors.New("closed")
	// ErrRange is returned for reads outside of the layer.
	ErrRange = errors.New("outside of the layer")
	// ErrSpans is returned by Store.Layer for a zInfo that cannot be served: spans
	// with gaps, out of bounds, or larger than the limit.
	ErrSpans = errors.New("unusable zInfo")
	// ErrConflict is returned by Store.Layer when the key is open with another zInfo.
	ErrConflict = errors.New("open with another zInfo")
)

// Error says which span of which layer could not be read. Store and Layer return
// it for everything that goes wrong between the source and the reader.
type Error struct {
	Layer string // key of the layer
	Span  int    // id of the span
	Err   error
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("read span %d of %s: %v", e.Span, e.Layer, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Source is where the compressed bytes of a layer come from.
type Source interface {
	// Open streams the n bytes at off: all of them, or an error from Read. Closing
	// the stream early ends it, and so does ctx. It may be read slowly.
	Open(ctx context.Context, off, n int64) (io.ReadCloser, error)
	// Size is the number of bytes of the compressed layer.
	Size() int64
}

// Defaults of Options.
const (
	DefaultMaxFetch  = 16 << 20
	DefaultMaxMemory = 96 << 20
	DefaultRequests  = 8
	DefaultQuiet     = time.Second
)

// readerSlots is how many times Options.Requests readers may have under way.
const readerSlots = 16

// trashPrefix starts the names of directories that are being removed.
const trashPrefix = ".removed-"

// Options configures Open.
type Options struct {
	MaxFetch  int64 // bytes of one coalesced range request; 0 means 16 MiB
	Retries   int   // refetches of a span whose digest does not match; 0 means none
	MaxMemory int64 // bytes of requests and spans on their way, over all layers; 0 means 96 MiB
	Decoders  int   // spans verified and inflated at the same time; 0 means GOMAXPROCS

	Requests int           // range requests under way, over all layers, before only readers may make more, up to 16 times as many; 0 means 8, at least 2
	Around   int64         // uncompressed bytes on either side of a read that are fetched, too, where the source takes long to answer; 0 means 16 MiB, negative none
	Quiet    time.Duration // how long nobody must have read before Fill goes on, for half a minute at most; 0 means 1 s, negative none
	Spare    func() bool   // reports whether there is a core to spare for Fill; nil means that the machine's load is looked at

	MaxBytes int64                       // of spans on disk, over all layers; 0 means no limit
	Reserve  func(size int64) int64      // bytes to be left free on a disk of size bytes; nil means none
	Uses     func() map[string]Use       // what layers are to whoever opened them, by key; nil, or nil returned, means that all are InUse
	OnRoom   func(state Room, why error) // told when it changes whether there is room on disk, from one goroutine at a time; nil means nobody

	age time.Duration // how long the store is taken to have been open, by tests
}

func (o *Options) setDefaults() {
	if o.MaxFetch <= 0 {
		o.MaxFetch = DefaultMaxFetch
	}
	if o.MaxMemory <= 0 {
		o.MaxMemory = DefaultMaxMemory
	}
	if o.Decoders <= 0 {
		o.Decoders = runtime.GOMAXPROCS(0)
	}
	if o.Requests <= 0 {
		o.Requests = DefaultRequests
	}
	if o.Around == 0 {
		o.Around = roamReach
	}
	if o.Quiet == 0 {
		o.Quiet = DefaultQuiet
	}
	if o.Spare == nil {
		o.Spare = machineSpare
	}
	o.Requests = max(o.Requests, 2) // one is kept free for readers
	o.Retries = max(o.Retries, 0)
	o.MaxBytes = max(o.MaxBytes, 0)
}

// Store is the directory of all layers' spans. It is safe for concurrent use.
type Store struct {
	dir      string
	opts     Options
	slots    gate // requests under way
	memory   gate // bytes on their way
	calm     *calm
	decoders decoders
	buffers  buffers
	room     room
	kept     kept

	mu     sync.Mutex          // guards what follows, and Layer.handles
	layers map[string]*Layer   // by key
	open   map[*Layer]struct{} // those and the ones removed while open
	trash  int                 // number of the next directory to remove
	closed bool
}

// Open opens the store at dir, creating it if needed. What an interrupted Remove
// left behind is deleted.
func Open(dir string, opts Options) (*Store, error) {
	opts.setDefaults()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open span store: %w", err)
	}
	ents, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open span store: %w", err)
	}
	for _, e := range ents {
		if !strings.HasPrefix(e.Name(), trashPrefix) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return nil, fmt.Errorf("open span store: %w", err)
		}
	}
	s := &Store{
		dir:      dir,
		opts:     opts,
		slots:    gate{share: slotShares(int64(opts.Requests))},
		memory:   gate{share: shares(opts.MaxMemory, opts.MaxMemory/4)},
		calm:     newCalm(opts.Quiet, opts.age),
		decoders: decoders{limit: opts.Decoders, spare: opts.Spare},
		layers:   make(map[string]*Layer),
		open:     make(map[*Layer]struct{}),
		kept:     kept{limit: opts.MaxMemory / 4},
	}
	s.room.open(s)
	return s, nil
}

// Active says that somebody uses files whose bytes come from the store, even if no
// bytes are read: Fill makes way as for a read.
func (s *Store) Active() { s.calm.note() }

// look has those who wait look at their urgency again.
func (s *Store) look() {
	s.slots.look()
	s.memory.look()
	s.calm.look()
	s.room.nudge()
}

// Layer opens the spans of the layer key (a file name that does not start with a
// dot), whose zInfo is zi and whose bytes come from src. Layers opened twice under
// one key are the same *Layer, reference counted; the first one's source serves
// both. zi must not be changed afterwards.
func (s *Store) Layer(key string, zi *ztoc.ZInfo, src Source) (*Layer, error) {
	if err := checkKey(key); err != nil {
		return nil, fmt.Errorf("open spans of %q: %w", key, err)
	}
	if err := checkZInfo(zi, src.Size()); err != nil {
		return nil, fmt.Errorf("open spans of %s: %w", key, err)
	}
	id := identify(zi)

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("open spans of %s: store: %w", key, ErrClosed)
	}
	if l := s.layers[key]; l != nil {
		if l.identity != id {
			return nil, fmt.Errorf("open spans of %s: %w", key, ErrConflict)
		}
		l.handles++
		return l, nil
	}
	l, err := newLayer(s, key, zi, id, src)
	if err != nil {
		return nil, fmt.Errorf("open spans of %s: %w", key, err)
	}
	s.layers[key] = l
	s.open[l] = struct{}{}
	return l, nil
}

// Keys returns the keys of the layers that have a directory, open or not.
func (s *Store) Keys() ([]string, error) {
	ents, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list span store: %w", err)
	}
	keys := make([]string, 0, len(ents))
	for _, e := range ents {
		if e.IsDir() && checkKey(e.Name()) == nil {
			keys = append(keys, e.Name())
		}
	}
	return keys, nil
}

// Remove deletes the layer's spans from disk. A layer that is still open goes on
// being served, and its disk space is freed with the last Close; the next Layer of
// the same key starts empty. Removing a layer that is not there is no error.
func (s *Store) Remove(key string) error {
	if err := checkKey(key); err != nil {
		return fmt.Errorf("remove spans of %q: %w", key, err)
	}
	s.mu.Lock()
	delete(s.layers, key)
	var trash string
	var err error
	for {
		trash = filepath.Join(s.dir, trashPrefix+strconv.Itoa(s.trash))
		s.trash++
		// Rename replaces an empty directory only.
		err = os.Rename(filepath.Join(s.dir, key), trash)
		if !errors.Is(err, os.ErrExist) {
			break
		}
	}
	s.mu.Unlock()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.RemoveAll(trash)
	}
	if err != nil {
		return fmt.Errorf("remove spans of %s: %w", key, err)
	}
	return nil
}

// Close cancels the fetches under way, waits for them and closes the layers that
// are still open.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.room.stop() // or a layer may wait for what the keeper does with it
	var open []*Layer
	for l := range s.open {
		l.handles = 0
		open = append(open, l)
		s.drop(l)
	}
	s.mu.Unlock()
	var errs []error
	for _, l := range open {
		errs = append(errs, l.shutdown())
	}
	s.decoders.workers.Wait() // they have nothing left to do
	s.room.close()
	return errors.Join(errs...)
}

// drop forgets a layer without handles. The caller holds s.mu.
func (s *Store) drop(l *Layer) {
	delete(s.open, l)
	if s.layers[l.key] == l {
		delete(s.layers, l.key)
	}
}

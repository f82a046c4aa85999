// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	_ "crypto/sha256" // for go-digest
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/ztoc"
)

// Background configures how what nobody has asked for of lazy layers is fetched.
type Background struct {
	Disable    bool          // fetch nothing but what is asked for
	Silence    time.Duration // after a layer is mounted no fill begins for so long; 0 means there is no such time
	MaxQueue   int           // layers that wait for their fill, of those that may be left out; 0 means 300, negative any number
	DropOldest bool          // where too many wait, the one that waits longest is left out; false means the newest
}

// Completion is what became of a layer that was fetched to its end.
type Completion struct {
	Layer  digest.Digest
	Result CompletionResult
	Err    error // behind Failed and Mismatch, and Unverifiable if there is one
	Dur    time.Duration
}

// CompletionResult is the kind of a Completion. The values are metric labels.
type CompletionResult string

// The results.
const (
	Verified     CompletionResult = "verified"     // the layer is complete, and what its image says it is
	Unverifiable CompletionResult = "unverifiable" // complete; its digest, or its tar, is of a kind that is not read here
	Mismatch     CompletionResult = "mismatch"     // complete, but not what its image says: it is not served any more
	Failed       CompletionResult = "failed"       // could not be fetched; it will be tried again
	Dropped      CompletionResult = "dropped"      // too many layers wait
)

// Bounds of fills.
const (
	fillWorkers     = 2 // one that fetches and one that verifies
	defaultMaxQueue = 300
	minFillRetry    = 5 * time.Second
	maxFillRetry    = 5 * time.Minute
	maxHurryRetry   = 30 * time.Second // where a reader waits for the verdict
	minSumRetry     = time.Minute
	maxSumRetry     = 4 * time.Hour
)

// completer is a layer's spans. *span.Layer satisfies it.
type completer interface {
	Fill(ctx context.Context) error
	Sum(ctx context.Context) ([32]byte, error)
	FillSum(ctx context.Context) ([32]byte, error)
}

// hurrier is a completer that can be made to go first. *span.Layer satisfies it.
type hurrier interface {
	Hurry()
	Relax()
}

// early is check while the layer comes, until filled is closed: where there is no error there need be no check.
type early func(ctx context.Context, filled <-chan struct{}) error

// fills completes lazy layers in the background, a few at a time: one after the other
// each is local sooner than all of them at once.
type fills struct {
	opts  Background
	tasks *tasks
	log   *slog.Logger
	tell  func(Completion)
	done  func(f *fill, result CompletionResult, err error) error // told what became of each
	after func(time.Duration) <-chan time.Time                    // time.After

	mu      sync.Mutex // guards what follows
	queue   []*fill
	running int
	mounted time.Time // when a layer was last mounted
	rush    rush
}

// fill is one layer to be completed.
type fill struct {
	key      string
	layer    digest.Digest
	diffID   digest.Digest // "" if it is not known
	verified bool          // it had its diffID once
	data     completer
	through  func(ctx context.Context) error // verifies it without the disk; the error matches errMismatch if it is wrong
	hurry    hurry
	guarded  bool                            // some of its files cannot be read before it is verified: it is never left out
	apart    bool                            // it is verified, but not complete
	filled   bool                            // it was complete once
	check    func(ctx context.Context) error // of all but the diffID; the error matches errTOC if it is wrong
	early    early                           // or nil
	mend     func(ctx context.Context) error // fetches it once more, for a disk that lies; the error matches errMismatch if it is wrong again
	added    time.Time
	retry    time.Duration // how long the next one waits
}

// add has a layer completed that has just been mounted.
func (s *fills) add(f *fill) {
	if s.opts.Disable {
		return
	}
	f.added, f.retry = time.Now(), minFillRetry
	s.mu.Lock()
	s.mounted = f.added
	wanted := s.rush.add(f)
	s.mu.Unlock()
	s.enqueue(f)
	if wanted {
		s.hasten(f.key)
	}
}

// enqueue puts f at the queue's end, or at its head if a reader waits for it, and sees to it that somebody works on it.
func (s *fills) enqueue(f *fill) {
	s.mu.Lock()
	if f.hurry.on {
		s.queue = slices.Insert(s.queue, 0, f)
	} else {
		s.queue = append(s.queue, f)
	}
	rush := s.rushes()
	var dropped *fill
	if s.opts.MaxQueue > 0 && len(s.queue) > s.opts.MaxQueue {
		if i := s.leaveOut(); i >= 0 {
			dropped = s.queue[i]
			s.queue = slices.Delete(s.queue, i, i+1)
			s.rush.remove(dropped)
		}
	}
	begin := s.running < fillWorkers
	if begin {
		s.running++
	}
	s.mu.Unlock()
	if dropped != nil {
		s.log.Warn("layer is not fetched in the background, too many wait", "layer", dropped.layer.String())
		s.tasks.run(func(ctx context.Context) { // the caller may hold what it takes to note it
			if ctx.Err() == nil {
				if err := s.done(dropped, Dropped, errDropped); err != nil {
					s.log.Warn("note that a layer stays incomplete", "layer", dropped.layer.String(), "error", err)
				}
			}
			s.tell(Completion{Layer: dropped.layer, Result: Dropped})
		})
	}
	if begin {
		s.tasks.run(s.work)
	}
	if rush {
		s.tasks.run(s.rushed)
	}
}

// leaveOut returns which layer of the queue is not to be fetched, -1 if all are. The caller holds s.mu.
func (s *fills) leaveOut() int {
	may := func(f *fill) bool { return !f.guarded }
	if s.opts.DropOldest {
		return slices.IndexFunc(s.queue, may)
	}
	for i := len(s.queue) - 1; i >= 0; i-- {
		if may(s.queue[i]) {
			return i
		}
	}
	return -1
}

// work completes layers until none is left.
func (s *fills) work(ctx context.Context) {
	for {
		s.mu.Lock()
		if len(s.queue) == 0 || ctx.Err() != nil {
			s.running--
			s.mu.Unlock()
			return
		}
		wait := s.opts.Silence - time.Since(s.mounted)
		if s.opts.Silence > 0 && wait > 0 {
			s.mu.Unlock()
			select {
			case <-s.after(wait):
			case <-ctx.Done():
			}
			continue
		}
		f := s.queue[0]
		s.queue = slices.Delete(s.queue, 0, 1)
		s.mu.Unlock()
		s.complete(ctx, f)
	}
}

// What can be wrong with a complete layer.
var (
	errMismatch = errors.New("the layer is not what its image says")
	errDropped  = errors.New("not fetched in the background, too many layers wait")
	errDisk     = errors.New("the disk does not keep what is written")
	errTOC      = fmt.Errorf("%w: table of contents", errMismatch) // whatever the image's diffID
)

// complete fetches what is missing of a layer and verifies the whole.
func (s *fills) complete(ctx context.Context, f *fill) {
	c := Completion{Layer: f.layer, Result: Failed}
	c.Err = contained(func() (err error) {
		c.Result, err = s.verify(ctx, f)
		return err
	})
	if ctx.Err() != nil || errors.Is(c.Err, span.ErrClosed) {
		s.forget(f)
		return // nobody wants it any more
	}
	if err := s.done(f, c.Result, c.Err); err != nil {
		s.log.Warn("note what a layer is", "layer", f.layer.String(), "error", err)
	}
	if c.Result != Failed {
		s.relax(f)
	}
	if c.Result == Verified && f.apart {
		s.log.Info("layer verified as it came, as the disk has no room for it", "layer", f.layer.String())
		s.mu.Lock()
		f.apart, f.verified = false, true
		s.mu.Unlock()
		s.enqueue(f) // it is to be completed once there is room
		return
	}
	if c.Result != Failed {
		s.forget(f)
	}
	c.Dur = time.Since(f.added)
	attrs := []any{"layer", f.layer.String(), "dur", c.Dur}
	switch c.Result {
	case Verified:
		s.log.Info("layer complete and verified", attrs...)
	case Unverifiable:
		s.log.Warn("layer complete, but it cannot be verified", append(attrs, "diffID", f.diffID.String(), "error", c.Err)...)
	case Mismatch:
		s.log.Error("layer is not what its image says and not served any more", append(attrs, "error", c.Err)...)
	default:
		s.log.Warn("layer not fetched in the background, will be tried again", append(attrs, "in", f.retry, "error", c.Err)...)
		s.again(f)
	}
	s.tell(c)
}

// verify fetches a layer to its end and compares it with its diffID, and its TOC with it.
func (s *fills) verify(ctx context.Context, f *fill) (CompletionResult, error) {
	if f.verified || f.diffID == "" || f.diffID.Algorithm() != digest.SHA256 {
		if err := f.data.Fill(ctx); err != nil {
			return Failed, err
		}
		if f.verified {
			return Verified, nil
		}
		return Unverifiable, nil
	}
	checked, err := s.fillSum(ctx, f)
	if err == nil && !checked {
		err = f.check(ctx)
	}
	if s.hurried(f) && errors.Is(err, span.ErrUnwritten) {
		s.log.Info("layer is fetched to be verified, and not kept, as the disk has no room for it", "layer", f.layer.String())
		err = f.through(ctx)
		f.apart = err == nil
	}
	switch {
	case err == nil:
		return Verified, nil
	case errors.Is(err, errMismatch):
		return Mismatch, err
	case errors.Is(err, span.ErrSpans), errors.Is(err, ztoc.ErrLimit), errors.Is(err, ztoc.ErrUnsupported):
		return Unverifiable, err // it would be so again
	}
	return Failed, err
}

// fillSum fetches a layer to its end and compares it with its diffID. It reports whether all else was checked, too.
func (s *fills) fillSum(ctx context.Context, f *fill) (checked bool, err error) {
	if f.filled {
		if err := f.data.Fill(ctx); err != nil {
			return false, err
		}
		return false, s.verifySum(ctx, f)
	}
	var sum [32]byte
	checked = f.early.during(ctx, func() bool {
		sum, err = f.data.FillSum(ctx)
		return err == nil && digest.NewDigestFromBytes(digest.SHA256, sum[:]) == f.diffID
	})
	if err != nil {
		return false, err
	}
	f.filled, f.retry = true, max(f.retry, minSumRetry)
	if digest.NewDigestFromBytes(digest.SHA256, sum[:]) == f.diffID {
		return checked, nil
	}
	return false, s.verifySum(ctx, f)
}

// during does the check while fill fetches the layer. It reports whether nothing was found to be wrong, of a layer
// of which fill says that it is right.
func (e early) during(ctx context.Context, fill func() bool) bool {
	if e == nil {
		fill()
		return false
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	filled, checked := make(chan struct{}), make(chan error, 1)
	go func() {
		checked <- contained(func() error { return e(ctx, filled) })
	}()
	right := false
	defer func() { // also if fill panics
		if !right {
			cancel()
			<-checked
		}
	}()
	right = fill()
	close(filled)
	return right && <-checked == nil
}

// verifySum compares a complete layer with its diffID. Wrong bytes on disk are not the layer's fault
// if it is right when it is fetched once more.
func (s *fills) verifySum(ctx context.Context, f *fill) error {
	err := compareSum(ctx, f.data, f.diffID)
	if errors.Is(err, errMismatch) {
		s.log.Warn("layer is not what its image says, fetching it once more", "layer", f.layer.String(), "error", err)
		if err = f.mend(ctx); err == nil {
			err = compareSum(ctx, f.data, f.diffID)
			if errors.Is(err, errMismatch) {
				err = fmt.Errorf("%w: %w", errDisk, err)
			}
		}
	}
	return err
}

// again puts f back into the queue after a while, a longer one if all of it is to be read from disk again.
func (s *fills) again(f *fill) {
	wait, hurry := s.later(f)
	s.tasks.run(func(ctx context.Context) {
		select {
		case <-wait:
		case <-hurry:
		case <-ctx.Done():
			return
		}
		s.enqueue(f)
	})
}

// later says when f is to be tried again, and what is closed if it is to be at once.
func (s *fills) later(f *fill) (wait <-chan time.Time, hurry <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := maxFillRetry
	switch {
	case f.filled && f.hurry.on:
		limit = minSumRetry
	case f.filled:
		limit = maxSumRetry
	case f.hurry.on:
		limit = maxHurryRetry
	}
	f.retry = min(f.retry, limit)
	wait = s.after(f.retry)
	f.retry = min(2*f.retry, limit)
	if f.hurry.on {
		return wait, nil // it has been told to hurry already
	}
	f.hurry.now = make(chan struct{})
	return wait, f.hurry.now
}

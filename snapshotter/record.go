// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/ztoc"
)

// When a recording ends.
const (
	recordTick   = time.Second
	recordQuiet  = 10      // ticks without a read end the recording of a start
	recordTicks  = 300     // and so do so many ticks
	recordEvery  = 5       // ticks with reads after which what is known so far is written
	recordBytes  = 4 << 30 // and so many bytes read
	maxRecording = 64      // images recorded at once
)

// recordable is a layer's spans. *span.Layer satisfies it.
type recordable interface {
	Touched() []ztoc.Range
	Stats() span.Stats
	Size() int64
}

// recorder learns what containers' starts read: from the start of a container until the
// image's layers are quiet, or the container is gone. What it has learnt is written whenever they pause.
type recorder struct {
	profiles index.ProfileDir
	tasks    *tasks
	log      *slog.Logger
	tick     func() (tick <-chan time.Time, stop func()) // every recordTick

	mu      sync.Mutex
	active  map[digest.Digest]*recording // by image manifest; guarded by mu
	running bool                         // somebody looks at them; guarded by mu
}

// recording is one image of which a container has started.
type recording struct {
	key    string // of the container's snapshot
	layers []recorded

	// Of the goroutine that looks at it, and guarded by recorder.mu.
	ticks, quiet int
	unwritten    int   // ticks with reads since it was last written
	first, last  int64 // bytes read of all layers, when it began and when it was last looked at
	dirty        bool  // there is something to write
}

// recorded is one layer of the image.
type recorded struct {
	digest digest.Digest
	data   recordable
	before []ztoc.Range // what was known of the image's starts when this one began
}

// read is how many bytes of the layers have been read so far.
func (r *recording) read() int64 {
	var n int64
	for _, l := range r.layers {
		n += l.data.Stats().BytesServed
	}
	return n
}

// start records what is read of the lazy layers of an image from now on: of which a container
// has the snapshot key.
func (s *recorder) start(key string, manifest digest.Digest, layers []recorded) {
	if len(layers) == 0 || manifest == "" {
		return
	}
	for i, l := range layers {
		if p, exact, err := s.profiles.Load(l.digest, manifest); err == nil && exact && p.Size == l.data.Size() {
			layers[i].before = p.Ranges
		}
	}
	r := &recording{key: key, layers: layers}
	r.first = r.read()
	r.last = r.first
	s.mu.Lock()
	if _, ok := s.active[manifest]; !ok && len(s.active) >= maxRecording {
		s.mu.Unlock()
		return
	}
	s.active[manifest] = r
	begin := !s.running
	s.running = true
	s.mu.Unlock()
	if begin {
		s.tasks.run(s.run)
	}
}

// run looks at the recordings until there is none.
func (s *recorder) run(ctx context.Context) {
	tick, stop := s.tick()
	defer stop()
	for {
		ended := false
		select {
		case <-tick:
		case <-ctx.Done():
			ended = true
		}
		if !s.look(ended) {
			return
		}
	}
}

// look looks at all recordings and reports whether any goes on.
func (s *recorder) look(ended bool) bool {
	s.mu.Lock()
	write := make(map[digest.Digest]*recording)
	for manifest, r := range s.active {
		over := r.look() || ended
		if r.dirty && (over || r.quiet == 1 || r.unwritten == recordEvery) {
			r.dirty, r.unwritten = false, 0
			write[manifest] = r
		}
		if over {
			delete(s.active, manifest)
		}
	}
	s.running = len(s.active) > 0
	going := s.running
	s.mu.Unlock()
	for manifest, r := range write {
		s.write(manifest, r)
	}
	return going
}

// finish ends the recording of the container that has the snapshot key, if there is one.
func (s *recorder) finish(key string) {
	s.mu.Lock()
	var found digest.Digest
	var r *recording
	for manifest, a := range s.active {
		if a.key == key {
			found, r = manifest, a
			r.look()
			delete(s.active, manifest) // who looks at them sees to the end of that
		}
	}
	s.mu.Unlock()
	if r != nil && r.last != r.first {
		s.write(found, r)
	}
}

// look notes what has happened, and reports whether the recording is over.
func (r *recording) look() bool {
	r.ticks++
	switch n := r.read(); {
	case n != r.last:
		r.last, r.quiet, r.dirty = n, 0, true
		r.unwritten++
	case n != r.first: // before anything is read it is not quiet, it has not begun
		r.quiet++
	}
	return r.quiet >= recordQuiet || r.ticks >= recordTicks || r.last-r.first >= recordBytes
}

// write saves the profiles of an image's layers.
func (s *recorder) write(manifest digest.Digest, r *recording) {
	for _, l := range r.layers {
		p := l.profile()
		if len(p.Ranges) == 0 {
			continue
		}
		if err := s.profiles.Save(l.digest, manifest, p); err != nil {
			s.log.Warn("record what a start reads", "manifest", manifest.String(), "error", err)
			return
		}
	}
	s.log.Debug("recorded what a start reads", "manifest", manifest.String(), "layers", len(r.layers))
}

// profile is what is now known of what starts read of the layer. A start that read less than half
// of what was known is that of another program: then both count, the latest first.
func (l *recorded) profile() *index.Profile {
	size, touched := l.data.Size(), l.data.Touched()
	p, before := index.NewProfile(size, touched), index.Profile{Ranges: l.before}
	if 2*p.Len() < before.Len() && len(p.Ranges) > 0 {
		p = index.NewProfile(size, append(touched, l.before...))
	}
	return p
}

// everyTick ticks as a recorder does.
func everyTick() (tick <-chan time.Time, stop func()) {
	t := time.NewTicker(recordTick)
	return t.C, t.Stop
}

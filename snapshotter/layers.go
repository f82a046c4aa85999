// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/fs"
	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/ztoc"
)

// mounter is the node's one mount. *fs.FS satisfies it.
type mounter interface {
	Attach(name string, slot uint32, toc fs.TOC, data *span.Layer) (fs.Attached, error)
	Detach(name string) error
	Verified(name string, err error) error
}

// spanStore is where spans live. *span.Store satisfies it.
type spanStore interface {
	Layer(key string, zi *ztoc.ZInfo, src span.Source) (*span.Layer, error)
	Remove(key string) error
	Close() error
}

// layers is the set of the node's lazily served layers.
type layers struct {
	states   stateDir
	policy   Policy
	mount    mounter
	spans    spanStore
	spansDir string // of spans
	wholeDir string // of layers whose registry ignores ranges
	repos    repositories
	fills    *fills

	mu sync.Mutex
	m  map[string]*layer // by layer key; guarded by mu
}

// layer is one lazily served layer: a directory of the mount, its spans, its
// state on disk. It is counted: one for each snapshot that is or is becoming
// the layer. When the count falls to zero all of it is deleted.
type layer struct {
	key  string
	refs int // guarded by layers.mu

	mu    sync.Mutex                  // serialises opening and deleting; guards what follows
	path  string                      // of the directory in the mount; "" means not attached
	state layerState                  // of the snapshots that have the layer; zero if none is known to
	src   atomic.Pointer[layerSource] // nil while it is not served; changed under mu, and read without
	data  *span.Layer

	zinfo   *ztoc.ZInfo // what data has its spans from
	implied []string    // directories without an entry of their own, while attached
	format  ztoc.Format // of its zTOC, likewise
}

// acquire counts one more user of the layer, which need not be open yet.
func (s *layers) acquire(key string) *layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.m[key]
	if l == nil {
		l = &layer{key: key}
		s.m[key] = l
	}
	l.refs++
	return l
}

// get returns a layer that has users.
func (s *layers) get(key string) (*layer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.m[key]
	return l, ok
}

// release takes back one acquire. The last one detaches the layer and deletes
// its state and spans; a layer acquired meanwhile waits for that to be over.
func (s *layers) release(l *layer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.mu.Lock()
	l.refs--
	last := l.refs == 0
	s.mu.Unlock()
	if !last {
		return nil
	}
	err := s.delete(l)
	s.mu.Lock()
	if l.refs == 0 {
		delete(s.m, l.key)
	}
	s.mu.Unlock()
	return err
}

// delete detaches l and removes it from disk. The caller holds l.mu.
func (s *layers) delete(l *layer) error {
	err := s.shut(l)
	l.state = layerState{}
	if err := errors.Join(err, s.spans.Remove(l.key), s.states.remove(l.key)); err != nil {
		return fmt.Errorf("delete layer %s: %w", l.key, err)
	}
	return nil
}

// shut detaches l, if it is attached. The caller holds l.mu.
func (s *layers) shut(l *layer) error {
	if l.path == "" {
		return nil
	}
	err := errors.Join(s.mount.Detach(l.key), l.data.Close(), l.src.Load().Close())
	l.path, l.data, l.zinfo = "", nil, nil
	l.src.Store(nil)
	return err
}

// create opens a layer with the zTOC toc as it came from the registry, having
// made it restorable. Opening an open layer adds the image to its sources.
func (s *layers) create(l *layer, st layerState, toc []byte) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Also of a layer that is not open: it has snapshots, which would be served again.
	if d := l.state.DiffID; l.state.Layer != "" && d != st.DiffID {
		return "", local(ReasonDiffID, fmt.Errorf("another image has the layer, with the diffID %s", d))
	}
	if l.path != "" {
		if err := s.policy.devicesOf(toc, st); err != nil { // it may be open since before there was the policy
			return "", err
		}
		return l.path, s.addImage(l, st.Images[0])
	}
	if s.states.condemned(l.key, st.DiffID) {
		return "", local(ReasonDiffID, errMismatch)
	}
	z, err := parseZTOC(toc, st)
	if err == nil {
		err = s.policy.check(z)
	}
	if err != nil {
		return "", err
	}
	// A layer that could not be restored may be in use since before.
	if old, err := s.states.loadState(l.key); err == nil {
		st.Slot, st.Whole = old.Slot, old.Whole
	}
	if err := s.open(l, st, z); err != nil {
		return "", err
	}
	if err := s.states.save(l.state, toc); err != nil {
		l.state = layerState{}
		return "", local(ReasonMount, errors.Join(err, s.shut(l)))
	}
	return l.path, nil
}

// addImage makes image the preferred source of the open layer l. The caller holds l.mu.
func (s *layers) addImage(l *layer, image string) error {
	if !l.state.addImage(image) {
		return nil
	}
	r, err := s.repos(image)
	if err != nil {
		return fallback(ReasonLookup, err)
	}
	l.src.Load().add(image, r.blob(l.desc()))
	if err := s.states.save(l.state, nil); err != nil {
		return local(ReasonMount, err)
	}
	return nil
}

// restore opens a layer from what is on disk. It makes no request.
func (s *layers) restore(l *layer) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.path != "" {
		return l.path, nil
	}
	st, toc, err := s.states.load(l.key)
	if err != nil {
		return "", err
	}
	if s.states.condemned(l.key, st.DiffID) {
		l.state = st
		return "", errMismatch
	}
	z, err := parseZTOC(toc, st)
	if err != nil {
		return "", err
	}
	if err := s.open(l, st, z); err != nil {
		return "", err
	}
	if !s.states.intact(l.state) {
		// Where the disk refuses a copy the next start makes it; where it refuses a slot nobody may have it.
		if err := s.states.save(l.state, nil); err != nil && l.state.Slot != st.Slot {
			return "", errors.Join(err, s.shut(l))
		}
	}
	return l.path, nil
}

// open attaches the layer, in the slot that st says, if it can be had. The caller holds l.mu.
func (s *layers) open(l *layer, st layerState, z *ztoc.Reader) (err error) {
	was := l.state
	l.state = st
	defer func() {
		if err != nil {
			l.state = was
		}
	}()
	src := &layerSource{size: st.Size, dir: s.wholeDir}
	src.unranged.Store(st.Whole)
	src.changed = func() { s.noteWhole(l, src) }
	for i := len(st.Images) - 1; i >= 0; i-- {
		r, err := s.repos(st.Images[i])
		if err != nil {
			return fallback(ReasonLookup, err)
		}
		src.add(st.Images[i], r.blob(l.desc()))
	}
	data, err := s.spans.Layer(l.key, z.ZInfo(), src)
	if err != nil {
		return local(openReason(err), err)
	}
	a, err := s.mount.Attach(l.key, st.Slot, z, data)
	if err != nil {
		return local(openReason(err), errors.Join(err, data.Close(), src.Close()))
	}
	l.path, l.data, l.zinfo = a.Path, data, z.ZInfo()
	l.src.Store(src)
	if st.Verified {
		if err := s.mount.Verified(l.key, nil); err != nil {
			return local(ReasonMount, errors.Join(err, s.shut(l)))
		}
	}
	l.implied, l.format = a.Implied, z.Format()
	l.state.Slot = a.Slot
	s.fills.add(&fill{
		key: l.key, layer: st.Layer, diffID: st.DiffID, verified: st.Verified, data: data,
		guarded: s.policy.GuardPrivileged && !st.Verified,
		check:   func(ctx context.Context) error { return s.checkTOC(ctx, l.key, data) },
		early: func(ctx context.Context, filled <-chan struct{}) error {
			return s.checkEarly(ctx, l.key, data, filled)
		},
		through: func(ctx context.Context) error { return s.checkThrough(ctx, l.key, data, st.DiffID) },
		mend:    func(ctx context.Context) error { return s.mend(ctx, l.key, z.ZInfo(), src, st.DiffID) },
	})
	return nil
}

// openReason tells a zTOC that cannot be served from a mount that cannot serve.
func openReason(err error) Reason {
	if errors.Is(err, fs.ErrTOC) || errors.Is(err, span.ErrSpans) {
		return ReasonZTOCInvalid
	}
	return ReasonMount
}

// desc is the layer's blob.
func (l *layer) desc() ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayerGzip,
		Digest:    l.state.Layer,
		Size:      l.state.Size,
	}
}

// impliedDirs returns the directories that the attached layer only implies.
func (l *layer) impliedDirs() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.implied
}

// servedFrom returns the format of the attached layer's zTOC.
func (l *layer) servedFrom() ztoc.Format {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.format
}

// spans returns the spans of the layer and what they are made of, nil if it is not being served.
func (l *layer) spans() (*span.Layer, *ztoc.ZInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.data, l.zinfo
}

// attached reports whether the layer is being served.
func (l *layer) attached() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.path != ""
}

// parseZTOC opens a zTOC, whichever format it has, and holds it to what is known of its layer.
func parseZTOC(p []byte, st layerState) (*ztoc.Reader, error) {
	z, err := ztoc.Open(p)
	if err != nil {
		return nil, local(ReasonZTOCInvalid, err)
	}
	mismatch := func(what string, has, layer any) error {
		return local(ReasonZTOCMismatch, fmt.Errorf("zTOC is of a layer of %s %v, the layer has %v", what, has, layer))
	}
	switch size, dgst, diffID := z.ZInfo().CompressedSize, z.LayerDigest(), z.DiffID(); {
	case size != st.Size:
		return nil, mismatch("size", size, st.Size)
	case differ(dgst, st.Layer):
		return nil, mismatch("digest", dgst, st.Layer)
	case differ(diffID, st.DiffID):
		return nil, mismatch("diffID", diffID, st.DiffID)
	}
	return z, nil
}

// differ reports whether two digests are known to be of different content.
func differ(a, b digest.Digest) bool {
	return a != "" && b != "" && a.Algorithm() == b.Algorithm() && a != b
}

// close lets go of all layers, which are served no more, and keeps their state.
func (s *layers) close() error {
	var errs []error
	s.mu.Lock()
	all := make([]*layer, 0, len(s.m))
	for _, l := range s.m {
		all = append(all, l)
	}
	s.mu.Unlock()
	for _, l := range all {
		l.mu.Lock()
		if l.path != "" {
			errs = append(errs, l.data.Close(), l.src.Load().Close())
			l.path, l.data, l.zinfo = "", nil, nil
			l.src.Store(nil)
		}
		l.mu.Unlock()
	}
	return errors.Join(append(errs, s.spans.Close())...)
}

// LayerStats is a copy of a lazily served layer's counters.
type LayerStats struct {
	Layer    digest.Digest
	Path     string // its directory in the mount
	Complete bool   // all of it is on disk
	Verified bool   // it was complete once, and what its image says
	Spans    span.Stats
}

// stats returns the counters of the layers that are being served.
func (s *layers) stats() []LayerStats {
	s.mu.Lock()
	all := make([]*layer, 0, len(s.m))
	for _, l := range s.m {
		all = append(all, l)
	}
	s.mu.Unlock()
	var out []LayerStats
	for _, l := range all {
		l.mu.Lock()
		if l.path != "" {
			out = append(out, LayerStats{l.state.Layer, l.path, l.data.Complete(), l.state.Verified, l.data.Stats()})
		}
		l.mu.Unlock()
	}
	return out
}

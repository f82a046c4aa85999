// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/ztoc"
)

// preparation is one Prepare under way.
type preparation struct {
	key, parent string
	opts        []snapshots.Opt
	labels      map[string]string
	ref         LayerRef
	name        string // to be committed under

	// Of the image, once it has been looked up.
	repo   repository
	img    *image
	n      int  // of the layer in the image
	top    bool // the layer is the image's last
	layer  ocispec.Descriptor
	diffID digest.Digest
	ztocs  []ocispec.Descriptor // the preferred one first

	// Of the layer that is being served.
	ztoc   digest.Digest
	format ztoc.Format
}

// Prepare makes an active snapshot. Where its labels say that it is to hold an
// image's layer, and the layer could be had without containerd's help, it is
// committed under the target's name at once, and the error matches
// errdefs.ErrAlreadyExists.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	start := time.Now()
	if err := s.available(ctx, parent); err != nil {
		return nil, fmt.Errorf("prepare %q: %w", key, err)
	}
	var base snapshots.Info
	for _, o := range opts {
		if err := o(&base); err != nil {
			return nil, err
		}
	}
	p := &preparation{key: key, parent: parent, opts: opts, labels: base.Labels}
	var err error
	p.ref, err = parseLabels(base.Labels)
	d := Decision{Kind: Active, Image: p.ref.Image, Layer: p.ref.Layer}
	if err == nil {
		err = s.roomy(ctx, func() (err error) {
			d.Kind, err = s.prepareLayer(ctx, p)
			return err
		})
	} else if !errors.Is(err, errNotLayer) {
		err = fallback(ReasonLabels, err)
	}
	var de *decisionError
	switch {
	case ctx.Err() != nil:
		s.endPull(p)
		return nil, fmt.Errorf("prepare %q: %w", key, ctx.Err())
	case errdefs.IsAlreadyExists(err):
		return nil, err
	case errors.As(err, &de):
		d.Kind, d.Reason, d.Err = de.kind, de.reason, de.err
	case err != nil && !errors.Is(err, errNotLayer):
		return nil, fmt.Errorf("prepare %q: %w", key, err)
	}
	d.Dur = time.Since(start)
	switch d.Kind {
	case Fallback:
		s.endPull(p) // containerd unpacks the layers above this one, too
	case Refused:
		s.endPull(p)
		s.decided(ctx, p, d)
		return nil, fmt.Errorf("prepare %q: layer %s of %q: %w: %w", key, p.ref.Layer, p.ref.Image, d.Err, errdefs.ErrFailedPrecondition)
	}
	if d.Kind == Lazy {
		d.Format = p.format
	}
	if d.Kind == Lazy || d.Kind == Local {
		s.decided(ctx, p, d)
		return nil, fmt.Errorf("target snapshot %q: %w", p.ref.Target, errdefs.ErrAlreadyExists)
	}
	var m []mount.Mount
	err = s.roomy(ctx, func() (err error) {
		m, err = s.inner.Prepare(ctx, key, parent, opts...)
		return err
	})
	if err == nil {
		s.decided(ctx, p, d)
	}
	if err == nil && d.Kind == Active && parent != "" {
		s.record(ctx, key, parent)
	}
	return m, err
}

// prepareLayer makes the target snapshot of p, lazy or else local. Whatever
// the error, nothing of p is left. Local comes with the decisionError that says
// why the layer is not lazy.
func (s *Snapshotter) prepareLayer(ctx context.Context, p *preparation) (Kind, error) {
	if err := s.nameTarget(ctx, p); err != nil {
		return "", err
	}
	kind, err := s.makeTarget(ctx, p)
	if !errdefs.IsAlreadyExists(err) {
		return kind, err
	}
	// Somebody was faster. Unless it was for another parent, this says so.
	if err := s.nameTarget(ctx, p); err != nil {
		return "", err
	}
	return s.makeTarget(ctx, p)
}

func (s *Snapshotter) makeTarget(ctx context.Context, p *preparation) (Kind, error) {
	err := s.prepareLazy(ctx, p)
	if err == nil {
		return Lazy, nil
	}
	var de *decisionError
	if !errors.As(err, &de) || de.kind != Local || ctx.Err() != nil {
		return "", err
	}
	if err := s.prepareLocal(ctx, p); err != nil {
		switch {
		case errdefs.IsAlreadyExists(err):
			return "", err
		case errors.Is(err, errDevice):
			return "", refused(err)
		}
		return "", fallback(ReasonUnpack, fmt.Errorf("%w; it is not lazy because: %w", err, de))
	}
	return Local, de
}

// nameTarget chooses the name to commit under, and returns an error that
// matches errdefs.ErrAlreadyExists if the target is there already. The name is
// the target's, as is customary, unless that is taken by a snapshot that
// containerd would not find: it looks for the label and the parent. The parents
// of the same chain differ where one namespace unpacked a layer and another did not.
func (s *Snapshotter) nameTarget(ctx context.Context, p *preparation) error {
	other := p.ref.Target + "@" + digest.FromString(p.parent).Encoded()[:32]
	for _, name := range []string{p.ref.Target, other} {
		info, err := s.Stat(ctx, name)
		switch {
		case errdefs.IsNotFound(err):
			p.name = name
			return nil
		case err != nil:
			return err
		case info.Kind == snapshots.KindCommitted && info.Parent == p.parent && info.Labels[snapshots.LabelSnapshotRef] == p.ref.Target:
			return fmt.Errorf("target snapshot %q: %w", p.ref.Target, errdefs.ErrAlreadyExists)
		}
	}
	return fallback(ReasonPrepare, fmt.Errorf("names %q and %q are taken", p.ref.Target, other))
}

// decide looks the layer up and the zTOCs it can be served with. This is the one place that
// decides whether a layer can be lazy: the error, a decisionError, says why not.
func (s *Snapshotter) decide(ctx context.Context, p *preparation) error {
	img, err := s.images.get(ctx, p.ref)
	if err != nil {
		return fallback(ReasonLookup, err)
	}
	if img.index == nil {
		return fallback(withoutIndex(img.none), img.none)
	}
	n, err := img.find(p.ref)
	if err != nil {
		return fallback(ReasonNotInImage, err)
	}
	p.repo, p.img, p.n, p.top = img.repo, img, n, n == len(img.layers)-1
	p.layer, p.diffID = img.layers[n], img.diffs[n]
	p.ztocs, err = s.candidates(img, n)
	return err
}

// candidates returns the zTOCs that layer n of img can be served with. The error, a decisionError,
// says why there are none.
func (s *Snapshotter) candidates(img *image, n int) ([]ocispec.Descriptor, error) {
	z := ztocs(img.index, img.layers[n].Digest)
	if len(z) == 0 {
		return nil, local(ReasonNoZTOC, nil)
	}
	if size := img.layers[n].Size; size < s.opts.MinLayerSize {
		return nil, local(ReasonSmall, fmt.Errorf("%d bytes are less than %d", size, s.opts.MinLayerSize))
	}
	return s.opts.Policy.listed(z)
}

// serve has open serve the layer of p with the preferred one of its zTOCs, or if
// something is wrong with that, with the next.
func (s *Snapshotter) serve(ctx context.Context, p *preparation, open func(toc []byte) error) error {
	if p.top {
		defer p.img.drop()
	}
	for i, desc := range p.ztocs {
		p.ztoc = desc.Digest
		toc, err := s.images.artifact(ctx, p.img, p.layer.Digest, desc)
		if err != nil {
			err = local(ReasonZTOCFetch, err)
		} else {
			err = open(toc)
		}
		fault := ztocFault(err)
		if fault == nil || i == len(p.ztocs)-1 || ctx.Err() != nil {
			return err
		}
		s.opts.Log.Warn("zTOC is not usable, another one of the layer is taken", "layer", p.layer.Digest.String(),
			"ztoc", desc.Digest.String(), "media_type", desc.MediaType, "reason", string(fault.reason), "error", fault.err)
	}
	return local(ReasonNoZTOC, nil)
}

// prepareLazy makes the target snapshot of p as a link to the layer in the mount.
func (s *Snapshotter) prepareLazy(ctx context.Context, p *preparation) error {
	err := s.decide(ctx, p)
	if p.img != nil {
		s.unpackAhead(ctx, p)
	}
	if err != nil {
		return err
	}
	return s.serve(ctx, p, func(toc []byte) error {
		start := time.Now()
		l := s.layers.acquire(layerKey(p.layer.Digest, p.ztoc))
		if err := s.commitLazy(ctx, p, l, toc); err != nil {
			if e := s.layers.release(l); e != nil {
				s.opts.Log.Warn("release layer", "layer", p.layer.Digest.String(), "error", e)
			}
			return err
		}
		s.opts.OnOperation(OpMount, p.layer.Digest, time.Since(start))
		return nil
	})
}

// layerState is what a restart is to know of p's layer.
func (p *preparation) layerState() layerState {
	return layerState{
		Version: 1, Layer: p.layer.Digest, Size: p.layer.Size, ZTOC: p.ztoc, DiffID: p.diffID,
		Images: []string{p.ref.Image},
	}
}

// commitLazy opens the layer and commits a snapshot that links to it. The
// order matters: what a restart needs is on disk before the link is made, and
// the link before the snapshot is committed.
func (s *Snapshotter) commitLazy(ctx context.Context, p *preparation, l *layer, toc []byte) error {
	path, err := s.layers.create(l, p.layerState(), toc)
	if err != nil {
		return err
	}
	p.format = l.servedFrom()
	s.prefetch(p, l)
	snap, err := s.begin(ctx, p)
	if err != nil {
		return err
	}
	if err := checkImplied(ctx, l.impliedDirs(), s.uppers(snap.ParentIDs)); err != nil {
		s.discard(ctx, p.key, snap.ID)
		return local(ReasonImplied, err)
	}
	r := &remoteSnapshot{name: p.name, id: snap.ID, ref: p.ref, layer: l}
	if err = linkDir(s.upper(snap.ID), s.linkTarget(snap.ID, path)); err == nil {
		namespace, _ := namespaces.Namespace(ctx)
		err = s.commit(ctx, p, remoteLabels(p.labels, namespace, p.ztoc), snapshots.Usage{}, r)
	}
	if err != nil {
		s.discard(ctx, p.key, snap.ID)
		if errdefs.IsAlreadyExists(err) {
			return err
		}
		return local(ReasonPrepare, err)
	}
	return nil
}

// linkTarget is the layer directory path as the link of snapshot id says it:
// relative, so that the root may be seen under another name.
func (s *Snapshotter) linkTarget(id, path string) string {
	rel, err := filepath.Rel(filepath.Dir(s.upper(id)), path)
	if err != nil {
		return path
	}
	return rel
}

// begin makes the active snapshot of p.
func (s *Snapshotter) begin(ctx context.Context, p *preparation) (snap storage.Snapshot, err error) {
	if _, err := s.inner.Prepare(ctx, p.key, p.parent, p.opts...); err != nil {
		// Not the kind of "already exists" that speaks of the target.
		return snap, fmt.Errorf("prepare %q: %w", p.key, notExists(err))
	}
	err = s.ms.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		snap, err = storage.GetSnapshot(ctx, p.key)
		return err
	})
	return snap, err
}

// notExists takes from err that it matches errdefs.ErrAlreadyExists.
func notExists(err error) error {
	if errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("%w: %v", errdefs.ErrFailedPrecondition, err)
	}
	return err
}

// commit makes the active snapshot of p the committed one of p.name. Unlike
// the overlay snapshotter's it does not walk the directory. r, if not nil, is
// known as lazy from then on.
func (s *Snapshotter) commit(ctx context.Context, p *preparation, labels map[string]string, usage snapshots.Usage, r *remoteSnapshot) error {
	s.mu.Lock() // so that a Remove finds r
	defer s.mu.Unlock()
	err := s.ms.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, err := storage.CommitActive(ctx, p.key, p.name, usage, snapshots.WithLabels(labels))
		return err
	})
	if err == nil && r != nil {
		s.remote[p.name] = r
	}
	if err == nil && p.top {
		s.endPull(p)
	}
	return err
}

// discard removes the active snapshot key and its directory, also when ctx is over.
func (s *Snapshotter) discard(ctx context.Context, key, id string) {
	err := s.inner.Remove(context.WithoutCancel(ctx), key)
	if err == nil {
		err = os.RemoveAll(filepath.Dir(s.upper(id)))
	}
	if err != nil {
		s.opts.Log.Warn("discard snapshot", "key", key, "error", err)
	}
}

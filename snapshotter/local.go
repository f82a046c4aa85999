// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
)

// prepareLocal makes the target snapshot of p by unpacking the layer.
func (s *Snapshotter) prepareLocal(ctx context.Context, p *preparation) error {
	snap, err := s.begin(ctx, p)
	if err != nil {
		return err
	}
	usage, err := s.unpackLayer(ctx, p, snap)
	if err != nil {
		err = fmt.Errorf("unpack layer %s of %q: %w", p.layer.Digest, p.ref.Image, err)
	} else {
		err = s.commit(ctx, p, p.labels, usage, nil)
	}
	if err != nil {
		s.discard(ctx, p.key, snap.ID)
	}
	return err
}

// unpackLayer makes the layer of p the content of snap: what was unpacked ahead, if anything was.
func (s *Snapshotter) unpackLayer(ctx context.Context, p *preparation, snap storage.Snapshot) (snapshots.Usage, error) {
	upper, parents := s.upper(snap.ID), s.uppers(snap.ParentIDs)
	if pull := p.img.pull.Load(); pull != nil {
		if l := pull.take(ctx, p.n); l != nil {
			err := s.stage.install(ctx, l, upper, parents)
			s.stage.discard(l)
			if err == nil {
				return l.usage, nil
			}
			if entries, e := os.ReadDir(upper); e != nil || len(entries) > 0 {
				return snapshots.Usage{}, errors.Join(err, e)
			}
			s.opts.Log.Debug("layer that was unpacked ahead is unpacked again", "layer", p.layer.Digest.String(), "error", err)
		}
	}
	return unpack(ctx, p.repo.blob(p.layer), p.diffID, destination{dir: upper, parents: parents, look: s.opts.Policy.look(fits(upper))})
}

// unpackAhead has the layers above p's that will be local downloaded and unpacked, so that
// they are there, or on their way, when containerd asks for them.
func (s *Snapshotter) unpackAhead(ctx context.Context, p *preparation) {
	if s.stage.off.Load() {
		return
	}
	img := p.img
	img.mu.Lock()
	defer img.mu.Unlock()
	if pull := img.pull.Load(); pull != nil && !pull.over() {
		pull.touch()
		return
	}
	var layers []*staged
	for n := p.n + 1; n < len(img.layers); n++ {
		if _, err := s.candidates(img, n); err == nil {
			continue
		}
		if _, err := s.Stat(ctx, img.chains[n].String()); !errdefs.IsNotFound(err) {
			continue
		}
		layers = append(layers, &staged{
			n: n, blob: img.repo.blob(img.layers[n]), digest: img.layers[n].Digest, diffID: img.diffs[n], done: make(chan struct{}),
		})
	}
	if len(layers) > 0 {
		img.pull.Store(s.stage.begin(layers))
	}
}

// endPull deletes what was unpacked ahead of p's image and has not been used.
func (s *Snapshotter) endPull(p *preparation) {
	if p.img == nil {
		return
	}
	if pull := p.img.pull.Load(); pull != nil {
		pull.end()
	}
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// watchEvery is how often the content store is asked how far downloads are.
const watchEvery = 200 * time.Millisecond

// ingests is the part of a content store that tells of downloads under way.
type ingests interface {
	ListStatuses(ctx context.Context, filters ...string) ([]content.Status, error)
}

// watcher shows how far containerd is with the layers of a pull that are not lazy.
// The lazy ones are not downloaded, and show no bar.
type watcher struct {
	mu   sync.Mutex                    // guards want
	want map[string]ocispec.Descriptor // layers of this pull, by the name of their ingest
}

// handler takes note of the layers that the pull downloads.
func (w *watcher) handler() images.HandlerFunc {
	return func(_ context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if images.IsLayerType(desc.MediaType) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.want == nil {
				w.want = make(map[string]ocispec.Descriptor)
			}
			w.want["layer-"+desc.Digest.String()] = desc
		}
		return nil, nil
	}
}

// watch moves the bars of p until stop is called or ctx is over.
func (w *watcher) watch(ctx context.Context, from ingests, p *progress) (stop func()) {
	if p.pool == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		at := make(map[string]int64)
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if list, err := from.ListStatuses(ctx); err == nil { // the pull itself says what is wrong
				w.step(p, list, at)
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// step moves the bars from where they are at.
func (w *watcher) step(p *progress, list []content.Status, at map[string]int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	running := make(map[string]bool)
	for _, s := range list {
		// In the reference, the name of the ingest is what comes last.
		name := s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
		desc, ok := w.want[name]
		if !ok {
			continue
		}
		running[name] = true
		p.add(desc, s.Offset-at[name])
		at[name] = s.Offset
	}
	for name, off := range at {
		if desc := w.want[name]; !running[name] && off < desc.Size {
			p.add(desc, desc.Size-off) // it is complete and has become content
			at[name] = desc.Size
		}
	}
}

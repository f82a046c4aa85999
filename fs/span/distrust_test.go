// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
)

// wary is a source that hears what was wrong.
type wary struct {
	*source
	mu    sync.Mutex
	wrong []ztoc.Range
}

func (w *wary) Distrust(off, n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = append(w.wrong, ztoc.Range{Off: off, Len: n})
}

// TestDistrust has a source send wrong bytes of one span, once: it is told of which.
func TestDistrust(t *testing.T) {
	d := plainLayer(5, 4096)
	src := &wary{source: d.source()}
	src.hook = func(_ context.Context, n int, p []byte, off int64) error {
		if n == 0 {
			p[4096+7-off]++
		}
		return nil
	}
	l, err := mustOpen(t, t.TempDir(), Options{Retries: 1, Quiet: now}).Layer("layer", d.zi, src)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := make([]byte, len(d.plain))
	if err := l.ReadAt(t.Context(), p, 0); err != nil || !bytes.Equal(p, d.plain) {
		t.Errorf("read: %v", err)
	}
	src.mu.Lock()
	defer src.mu.Unlock()
	if want := []ztoc.Range{d.zi.Spans[1].In}; !slices.Equal(src.wrong, want) {
		t.Errorf("told of %v, want %v", src.wrong, want)
	}
}

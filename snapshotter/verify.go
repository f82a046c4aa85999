// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/ztoc"
)

// checkTOC holds the TOC that the complete layer key is served with to the headers of its tar.
// The error matches errTOC if the TOC is not the tar's, and one
// of ztoc's if the tar, whose zTOC may be another indexer's, is not one that this package reads.
func (s *layers) checkTOC(ctx context.Context, key string, data *span.Layer) error {
	z, err := s.toc(key, math.MaxInt)
	if err != nil {
		return err
	}
	return compareTOC(ctx, z, io.NewSectionReader(layerData{data.Size(), data.ReadLocal}, 0, data.Size()))
}

// maxEarlyTOC is the size in bytes of the largest zTOC that is kept open while its layer comes.
const maxEarlyTOC = 8 << 20

var errLarge = errors.New("zTOC is too large to be kept open")

// checkEarly is checkTOC of a layer that is on its way, until filled is closed. No error is final, but that there is none.
func (s *layers) checkEarly(ctx context.Context, key string, data *span.Layer, filled <-chan struct{}) error {
	z, err := s.toc(key, maxEarlyTOC)
	if err != nil {
		return err
	}
	read := func(p []byte, off int64) error { return data.ReadArriving(ctx, p, off, filled) }
	return compareTOC(ctx, z, io.NewSectionReader(layerData{data.Size(), read}, 0, data.Size()))
}

// checkThrough holds the layer key to its diffID, and the TOC that it is served with to its tar, as it comes from
// the registry: nothing of it has to be on disk, or gets there. The error matches errMismatch if one is wrong, which
// is not the disk's fault then. It is a verdict on what will come later, too: each span is held to its digest.
func (s *layers) checkThrough(ctx context.Context, key string, data *span.Layer, diffID digest.Digest) error {
	z, err := s.toc(key, math.MaxInt)
	if err != nil {
		return err
	}
	tar, w := io.Pipe()
	defer tar.Close() // else a panic here would leave somebody writing for ever
	var sum [32]byte
	var failed error
	done := make(chan struct{})
	go func() {
		defer close(done)
		sum, failed = data.SumThrough(ctx, w)
		_ = w.CloseWithError(failed) // it returns none
	}()
	wrong := compareTOC(ctx, z, tar)
	_, _ = io.Copy(io.Discard, tar) // the rest of what the digest is of
	<-done
	if failed != nil {
		return failed
	}
	if got := digest.NewDigestFromBytes(digest.SHA256, sum[:]); got != diffID {
		return fmt.Errorf("%w: diffID is %s, not %s", errMismatch, got, diffID)
	}
	return wrong
}

// toc returns the zTOC that the layer key is served with, if that has at most so many bytes: else the error is errLarge.
func (s *layers) toc(key string, most int) (*ztoc.Reader, error) {
	_, toc, err := s.states.load(key)
	if err != nil {
		return nil, err
	}
	if len(toc) > most {
		return nil, errLarge
	}
	z, err := ztoc.Open(toc)
	if err != nil {
		return nil, fmt.Errorf("open zTOC of layer %s: %w", key, err)
	}
	return z, nil
}

// compareTOC holds the TOC of z to the headers of a tar. The error is that of checkTOC.
func compareTOC(ctx context.Context, z *ztoc.Reader, tar io.Reader) error {
	faults, err := z.CheckTOC(ctx, tar)
	switch {
	case errors.Is(err, ztoc.ErrFormat):
		return fmt.Errorf("%w: %w", errTOC, err)
	case err != nil:
		return err
	case len(faults) > 0:
		return fmt.Errorf("%w: %w", errTOC, faults[0])
	}
	return nil
}

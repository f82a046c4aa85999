// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/ztoc"
)

// checkTOC holds the TOC that the complete layer key is served with to the headers of its tar.
// The error matches errTOC if the TOC is not the tar's, and one
// of ztoc's if the tar, whose zTOC may be another indexer's, is not one that this package reads.
func (s *layers) checkTOC(ctx context.Context, key string, data *span.Layer) error {
	_, toc, err := s.states.load(key)
	if err != nil {
		return err
	}
	z, err := ztoc.Open(toc)
	if err != nil {
		return fmt.Errorf("open zTOC of layer %s: %w", key, err)
	}
	faults, err := z.CheckTOC(ctx, io.NewSectionReader(localData{data}, 0, data.Size()))
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

// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/ztoc"
)

// mendSuffix makes a layer key the name under which its layer is fetched once more.
const mendSuffix = "-anew"

// mendPiece is how much is compared at a time.
const mendPiece = 1 << 20

// mend tells a disk that lies from a layer that is not what it should be: the layer key is fetched
// once more, to elsewhere, and if then it has diffID the bytes on disk are replaced. The error
// matches errMismatch if it has not. Those who read the layer meanwhile are not disturbed.
func (s *layers) mend(ctx context.Context, key string, zi *ztoc.ZInfo, src span.Source, diffID digest.Digest) (err error) {
	other := key + mendSuffix
	data, err := s.spans.Layer(other, zi, src)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, data.Close()) }()
	if err := s.spans.Remove(other); err != nil { // a crash leaves nothing
		return err
	}
	if err := data.Fill(ctx); err != nil {
		return err
	}
	if err := compareSum(ctx, data, diffID); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(s.spansDir, key, "data"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	have, want := make([]byte, mendPiece), make([]byte, mendPiece)
	for off := int64(0); off < data.Size(); off += mendPiece {
		n := min(mendPiece, data.Size()-off)
		if err := data.ReadAt(ctx, want[:n], off); err != nil {
			return err
		}
		if m, err := f.ReadAt(have[:n], off); err == nil && bytes.Equal(have[:m], want[:n]) {
			continue
		}
		if _, err := f.WriteAt(want[:n], off); err != nil {
			return err
		}
	}
	return nil
}

// compareSum holds a complete layer to its diffID. The error matches errMismatch if it has another.
func compareSum(ctx context.Context, data completer, diffID digest.Digest) error {
	sum, err := data.Sum(ctx)
	if err != nil {
		return err
	}
	if got := digest.NewDigestFromBytes(digest.SHA256, sum[:]); got != diffID {
		return fmt.Errorf("%w: diffID is %s, not %s", errMismatch, got, diffID)
	}
	return nil
}

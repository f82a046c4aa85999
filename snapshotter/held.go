// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
)

// heldSuffix is of the file that says which snapshots a restored or new database does not know of.
const heldSuffix = ".held"

// idRange is the ids of snapshots behind after, up to last.
type idRange struct{ after, last uint64 }

func (i idRange) has(id uint64) bool { return id > i.after && id <= i.last }

// heldPath is the file that an operator removes when no container uses what the database, as it
// was restored or has begun anew, does not know of.
func heldPath(root string) string {
	return filepath.Join(root, "snapshotter", metadataFile+heldSuffix)
}

// hold has what belongs to the ids left alone from now on, beside those that were before.
func hold(path string, more idRange) error {
	was, held, err := heldIDs(path)
	if err != nil {
		return err
	}
	if held {
		more.after, more.last = min(more.after, was.after), max(more.last, was.last)
	}
	return writeFile(path, fmt.Appendf(nil, "%d %d\n", more.after, more.last))
}

// heldIDs returns which ids are held, and whether any are: all if the file does not say.
func heldIDs(path string) (held idRange, ok bool, err error) {
	p, err := readFile(path, maxStateSize)
	if errors.Is(err, os.ErrNotExist) {
		return idRange{}, false, nil
	}
	if err != nil {
		return idRange{}, false, err
	}
	if _, err := fmt.Sscanf(string(p), "%d %d", &held.after, &held.last); err != nil {
		held = idRange{0, math.MaxUint64}
	}
	return held, true, nil
}

// cleanupBut deletes the directories of snapshots that the metadata does not know of, but for those held.
func (s *Snapshotter) cleanupBut(ctx context.Context, held idRange) error {
	dir := filepath.Join(s.dir, "snapshots")
	var gone []string
	// Writable, so that no snapshot is being made meanwhile.
	err := s.ms.WithTransaction(ctx, true, func(ctx context.Context) error {
		known, err := storage.IDMap(ctx)
		if err != nil {
			return err
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if _, ok := known[e.Name()]; ok {
				continue
			}
			if id, err := strconv.ParseUint(e.Name(), 10, 63); err == nil && held.has(id) {
				continue
			}
			gone = append(gone, filepath.Join(dir, e.Name()))
		}
		return nil
	})
	for _, path := range gone {
		if err := os.RemoveAll(path); err != nil {
			s.opts.Log.Warn("remove directory of a snapshot", "path", path, "error", err)
		}
	}
	return err
}

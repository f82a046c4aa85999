// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	mount "github.com/seekoci/seekoci/fs"
)

// maxCondemned bounds how many layers are remembered as condemned.
const maxCondemned = 1024

// completed notes what the layer of f has turned out to be, and condemns it if it is wrong. A
// layer that is not being served any more is left alone.
func (s *layers) completed(f *fill, result CompletionResult, wrong error) error {
	l, ok := s.get(f.key)
	if !ok {
		return nil
	}
	first, err := s.settle(l, f, result, wrong)
	if first { // the disk may take a second for it: nobody waits, as the layer would only be verified once more
		s.fills.tasks.run(func(context.Context) { s.saveVerified(l) })
	}
	return err
}

// settle is completed. It reports whether the layer is the first time what its image says, which is not on disk yet.
func (s *layers) settle(l *layer, f *fill, result CompletionResult, wrong error) (first bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.path == "" || completer(l.data) != f.data {
		return false, nil
	}
	if err := s.mount.Verified(l.key, verdict(result, wrong)); err != nil {
		return false, err
	}
	if result == Mismatch {
		return false, s.condemn(l, wrong)
	}
	if l.state.Verified || result != Verified {
		return false, nil
	}
	l.state.Verified = true
	return true, nil
}

// saveVerified writes down that a layer is verified.
func (s *layers) saveVerified(l *layer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.path == "" || !l.state.Verified {
		return // it is gone
	}
	if err := s.states.save(l.state, nil); err != nil {
		s.fills.log.Warn("note that a layer is verified", "layer", l.state.Layer.String(), "error", err)
	}
}

// errUnverifiable is what is said of a layer that cannot be verified for no particular reason.
var errUnverifiable = errors.New("the layer cannot be verified")

// verdict is what a result says of a layer: nil that it is what its image says, and an error that
// matches [mount.ErrUnverified] that there will be another, or may be.
func verdict(result CompletionResult, err error) error {
	if result == Failed || result == Dropped {
		return fmt.Errorf("%w: %w", mount.ErrUnverified, err)
	}
	if result != Verified && err == nil {
		return errUnverifiable
	}
	return err
}

// condemn ends the serving of a layer whose bytes are known to be wrong, to those who use
// it, too: for good, unless it is the disk's fault. The caller holds l.mu.
func (s *layers) condemn(l *layer, wrong error) error {
	var err error
	switch {
	case errors.Is(wrong, errDisk): // the layer can be had anew
	case errors.Is(wrong, errTOC):
		err = s.states.condemn(l.key)
	default:
		err = s.states.condemn(wrongDiffID(l.key, l.state.DiffID))
	}
	l.data.Condemn(wrong)
	err = errors.Join(err, s.mount.Detach(l.key), l.data.Close(), s.spans.Remove(l.key))
	l.path, l.data, l.zinfo = "", nil, nil
	l.src.Store(nil)
	if err != nil {
		return fmt.Errorf("condemn layer %s: %w", l.key, err)
	}
	return nil
}

// condemnedDir has an empty file for each condemned layer, or layer of a wrong diffID. It is not below the states'
// directory, where what no snapshot refers to is swept.
func (d stateDir) condemnedDir() string {
	return filepath.Join(filepath.Dir(string(d)), "condemned")
}

// wrongDiffID names a layer that is not what an image says. That image may be the one that
// is wrong: others, which say something else, are not to suffer.
func wrongDiffID(key string, diffID digest.Digest) string {
	return key + "-" + digest.FromString(diffID.String()).Encoded()[:32] // names have at most 255 bytes
}

// condemned reports whether the layer key is not to be served, or not to images that say
// it has diffID.
func (d stateDir) condemned(key string, diffID digest.Digest) bool {
	for _, name := range []string{key, wrongDiffID(key, diffID)} {
		if _, err := os.Lstat(filepath.Join(d.condemnedDir(), name)); err == nil {
			return true
		}
	}
	return false
}

// condemn remembers what is not to be served any more: a layer key or a wrongDiffID. Beyond a
// bound the ones condemned first are forgotten.
func (d stateDir) condemn(name string) error {
	dir := d.condemnedDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, name), nil); err != nil {
		return err
	}
	return errors.Join(keepNewest(dir, maxCondemned), syncDir(dir))
}

// keepNewest removes all but the n entries of dir that were changed last.
func keepNewest(dir string, n int) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) <= n {
		return err
	}
	changed := func(e fs.DirEntry) time.Time {
		if info, err := e.Info(); err == nil {
			return info.ModTime()
		}
		return time.Time{}
	}
	slices.SortStableFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(changed(b).UnixNano(), changed(a).UnixNano()) })
	for _, e := range entries[n:] {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

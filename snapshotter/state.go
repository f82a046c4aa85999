// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Bounds of what is read back from disk and from the network.
const (
	maxZTOCSize  = 256 << 20
	maxStateSize = 64 << 10
	maxImages    = 8 // image references kept per layer
)

// layerKey names a layer served with a zTOC: in the FUSE mount, in the span
// store, in the state directory. The zTOC's digest is part of it because a
// zTOC comes from whoever made the image's index: two images share a layer's
// bytes only if they agree on what is in it.
func layerKey(layer, ztoc digest.Digest) string { return layer.Encoded() + "-" + ztoc.Encoded() }

// isLayerKey reports whether s can be a layer key: two digests' hex digits.
func isLayerKey(s string) bool {
	layer, ztoc, ok := strings.Cut(s, "-")
	return ok && isHex(layer) && isHex(ztoc)
}

func isHex(s string) bool {
	return len(s) >= 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// layerState is all that is needed, beside the zTOC, to serve a layer again
// without its image's labels and without the network.
type layerState struct {
	Version int           `json:"version"` // 1
	Layer   digest.Digest `json:"layer"`
	Size    int64         `json:"size"` // compressed bytes
	ZTOC    digest.Digest `json:"ztoc"`
	DiffID  digest.Digest `json:"diffID,omitempty"`
	Images  []string      `json:"images"` // references under which the layer can be fetched, latest first

	Verified bool `json:"verified,omitempty"` // all of it was there once, and had the diffID

	// Slot is the layer's in the mount, 0 if it has none: a state written by a version
	// that did not note it. Those who use the layer know it by its slot.
	Slot uint32 `json:"slot,omitempty"`
}

func (s layerState) key() string { return layerKey(s.Layer, s.ZTOC) }

// addImage puts image first among the references, and reports whether that changed anything.
func (s *layerState) addImage(image string) bool {
	i := slices.Index(s.Images, image)
	if i == 0 {
		return false
	}
	if i > 0 {
		s.Images = slices.Delete(s.Images, i, i+1)
	}
	s.Images = slices.Insert(s.Images, 0, image)
	s.Images = s.Images[:min(len(s.Images), maxImages)]
	return true
}

func (s layerState) validate(key string) error {
	if s.Version != 1 {
		return fmt.Errorf("version %d is not 1", s.Version)
	}
	if err := s.Layer.Validate(); err != nil {
		return fmt.Errorf("layer %q: %w", s.Layer, err)
	}
	if err := s.ZTOC.Validate(); err != nil {
		return fmt.Errorf("ztoc %q: %w", s.ZTOC, err)
	}
	if err := s.DiffID.Validate(); s.DiffID != "" && err != nil {
		return fmt.Errorf("diffID %q: %w", s.DiffID, err)
	}
	if s.key() != key {
		return errors.New("is of another layer")
	}
	if s.Size <= 0 || len(s.Images) == 0 {
		return errors.New("size or images missing")
	}
	return nil
}

// stateDir is the directory of all layers' states: one directory per layer key
// with the files "ztoc" and "layer.json". The latter is written last.
type stateDir string

func (d stateDir) path(key, file string) string { return filepath.Join(string(d), key, file) }

// save writes a layer's state and, if not nil, its zTOC.
func (d stateDir) save(s layerState, ztoc []byte) error {
	key := s.key()
	if err := os.MkdirAll(filepath.Join(string(d), key), 0o700); err != nil {
		return fmt.Errorf("save state of layer %s: %w", s.Layer, err)
	}
	if ztoc != nil {
		if err := writeFile(d.path(key, "ztoc"), ztoc); err != nil {
			return fmt.Errorf("save zTOC of layer %s: %w", s.Layer, err)
		}
	}
	p, err := json.Marshal(s)
	if err == nil {
		err = writeFile(d.path(key, "layer.json"), p)
	}
	if err == nil {
		err = errors.Join(syncDir(filepath.Join(string(d), key)), syncDir(string(d)))
	}
	if err != nil {
		return fmt.Errorf("save state of layer %s: %w", s.Layer, err)
	}
	return nil
}

// load reads back and verifies what save wrote.
func (d stateDir) load(key string) (layerState, []byte, error) {
	s, err := d.loadState(key)
	if err != nil {
		return s, nil, err
	}
	ztoc, err := readFile(d.path(key, "ztoc"), maxZTOCSize)
	if err != nil {
		return s, nil, fmt.Errorf("load zTOC of layer %s: %w", s.Layer, err)
	}
	if got := s.ZTOC.Algorithm().FromBytes(ztoc); got != s.ZTOC {
		return s, nil, fmt.Errorf("load %s: digest is %s, not %s", d.path(key, "ztoc"), got, s.ZTOC)
	}
	return s, ztoc, nil
}

// loadState reads back and verifies a layer's state, whatever has become of its zTOC.
func (d stateDir) loadState(key string) (layerState, error) {
	var s layerState
	p, err := readFile(d.path(key, "layer.json"), maxStateSize)
	if err != nil {
		return s, fmt.Errorf("load state of layer %s: %w", key, err)
	}
	if err := json.Unmarshal(p, &s); err != nil {
		return s, fmt.Errorf("load %s: %w", d.path(key, "layer.json"), err)
	}
	if err := s.validate(key); err != nil {
		return s, fmt.Errorf("load %s: %w", d.path(key, "layer.json"), err)
	}
	return s, nil
}

// remove deletes a layer's state.
func (d stateDir) remove(key string) error { return os.RemoveAll(filepath.Join(string(d), key)) }

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() > limit { // before any of it is in memory
		return nil, cmp.Or(err, fmt.Errorf("more than %d bytes", limit))
	}
	return readAll(f, limit)
}

// readAll reads r, which must have at most limit bytes.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	p, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(p)) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return p, nil
}

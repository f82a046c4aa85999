// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
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

	// Whole says that no registry delivers parts of the layer: all of it was to be had, or nothing.
	Whole bool `json:"whole,omitempty"`

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

// sumField is what a state ends with: the CRC32C of all before it. A bit of the slot that is wrong would
// serve a layer to those who use another one.
const sumField = `,"sum":"`

func sumOf(p []byte) string {
	return fmt.Sprintf(`%s%08x"}`, sumField, crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
}

func (s layerState) marshal() ([]byte, error) {
	p, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	p = bytes.TrimSuffix(p, []byte("}"))
	return append(p, sumOf(p)...), nil
}

// unmarshalState reads what marshal of this or another version has written: without a sum there is
// nothing in it that this version does not know.
func unmarshalState(p []byte) (s layerState, err error) {
	at := bytes.LastIndex(p, []byte(sumField))
	if at < 0 {
		d := json.NewDecoder(bytes.NewReader(p))
		d.DisallowUnknownFields()
		if err := d.Decode(&s); err != nil {
			return s, err
		}
		if n := d.InputOffset(); n != int64(len(p)) {
			return s, fmt.Errorf("%d bytes behind its end", int64(len(p))-n)
		}
		return s, nil
	}
	if string(p[at:]) != sumOf(p[:at]) {
		return s, errors.New("its checksum is wrong")
	}
	return s, json.Unmarshal(p, &s)
}

// stateDir is the directory of all layers' states: one directory per layer key
// with the files "ztoc" and "layer.json", and a copy of the latter: the slot can be had from nowhere else.
type stateDir string

// The files of a state.
const (
	stateFile = "layer.json"
	stateCopy = stateFile + copySuffix
)

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
	p, err := s.marshal()
	if err == nil { // both at once: while layers are fetched, the disk takes long for each
		var g errgroup.Group
		g.Go(func() error { return writeFile(d.path(key, stateFile), p) })
		g.Go(func() error { return writeFile(d.path(key, stateCopy), p) })
		err = g.Wait()
	}
	if err == nil {
		var g errgroup.Group
		g.Go(func() error { return syncDir(filepath.Join(string(d), key)) })
		g.Go(func() error { return syncDir(string(d)) })
		err = g.Wait()
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

// loadState reads back and verifies a layer's state, or the copy of one that is damaged, whatever
// has become of its zTOC.
func (d stateDir) loadState(key string) (layerState, error) {
	s, err := d.loadFile(key, stateFile)
	if err == nil {
		return s, nil
	}
	if s, e := d.loadFile(key, stateCopy); e == nil {
		return s, nil
	}
	return s, err
}

func (d stateDir) loadFile(key, file string) (layerState, error) {
	p, err := readFile(d.path(key, file), maxStateSize)
	if err != nil {
		return layerState{}, fmt.Errorf("load state of layer %s: %w", key, err)
	}
	s, err := unmarshalState(p)
	if err == nil {
		err = s.validate(key)
	}
	if err != nil {
		return s, fmt.Errorf("load %s: %w", d.path(key, file), err)
	}
	return s, nil
}

// intact reports whether s is what both the state and its copy say.
func (d stateDir) intact(s layerState) bool {
	want, err := s.marshal()
	for _, file := range []string{stateFile, stateCopy} {
		p, e := readFile(d.path(s.key(), file), maxStateSize)
		if err != nil || e != nil || !bytes.Equal(p, want) {
			return false
		}
	}
	return true
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

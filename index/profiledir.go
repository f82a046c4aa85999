// SPDX-License-Identifier: Apache-2.0

package index

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Bounds of a ProfileDir.
const (
	maxProfiledLayers = 512
	maxLayerProfiles  = 4
)

// ProfileDir is a directory of the profiles that a node has learnt: <layer>/<image manifest>.json,
// of the digests the encoded parts. It keeps the profiles of the 512 layers, and of each of them those of
// the 4 images, that were saved last.
type ProfileDir string

const profileExt = ".json"

// file is where the profile of a layer of an image manifest is.
func (d ProfileDir) file(layer, manifest digest.Digest) (string, error) {
	for _, dgst := range []digest.Digest{layer, manifest} {
		if err := dgst.Validate(); err != nil {
			return "", fmt.Errorf("digest %.100q: %w", dgst, err)
		}
	}
	return filepath.Join(string(d), layer.Encoded(), manifest.Encoded()+profileExt), nil
}

// Save keeps the profile of a layer of an image manifest, instead of the one that was there.
func (d ProfileDir) Save(layer, manifest digest.Digest, p *Profile) error {
	if err := d.save(layer, manifest, p); err != nil {
		return fmt.Errorf("save profile of layer %s: %w", layer, err)
	}
	return nil
}

func (d ProfileDir) save(layer, manifest digest.Digest, p *Profile) error {
	b, _, err := p.Marshal()
	if err != nil {
		return err
	}
	name, err := d.file(layer, manifest)
	if err != nil {
		return err
	}
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		// Not synced: what a power cut leaves half written does not validate, and is learnt again.
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return errors.Join(keepNewest(dir, maxLayerProfiles), keepNewest(string(d), maxProfiledLayers))
}

// Load returns the profile of a layer of an image manifest. If there is none of that manifest it
// is the one of another image with the layer that was saved last; exact says whether it is not. The error matches
// os.ErrNotExist if there is none at all, ErrFormat if there is one that cannot be used.
func (d ProfileDir) Load(layer, manifest digest.Digest) (p *Profile, exact bool, err error) {
	name, err := d.file(layer, manifest)
	if err == nil {
		p, err = readProfile(name)
	}
	if err == nil {
		return p, true, nil
	}
	if errors.Is(err, os.ErrNotExist) {
		var list []fs.DirEntry
		if list, err = newest(filepath.Dir(name)); err == nil {
			err = os.ErrNotExist
		}
		for _, e := range list {
			if strings.HasSuffix(e.Name(), profileExt) {
				p, err = readProfile(filepath.Join(filepath.Dir(name), e.Name()))
				break
			}
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("load profile of layer %s: %w", layer, err)
	}
	return p, false, nil
}

func readProfile(name string) (*Profile, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxProfileSize+1))
	if err != nil {
		return nil, err
	}
	return UnmarshalProfile(b)
}

// newest lists dir, what was changed last first.
func newest(dir string) ([]fs.DirEntry, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	changed := make(map[string]int64, len(list))
	for _, e := range list {
		if info, err := e.Info(); err == nil {
			changed[e.Name()] = info.ModTime().UnixNano()
		}
	}
	slices.SortStableFunc(list, func(a, b fs.DirEntry) int { return cmp.Compare(changed[b.Name()], changed[a.Name()]) })
	return list, nil
}

// keepNewest removes all but the n entries of dir that were changed last.
func keepNewest(dir string, n int) error {
	list, err := newest(dir)
	if err != nil {
		return err
	}
	for _, e := range list[min(n, len(list)):] {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

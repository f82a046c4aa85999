// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"fmt"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/fs/span"
)

// StoredLayer is what a snapshotter's root says of a lazy layer.
type StoredLayer struct {
	Layer    digest.Digest
	ZTOC     digest.Digest // that it is served with
	Size     int64         // compressed bytes
	Images   []string      // references under which it can be fetched, latest first
	Verified bool          // all of it was there once, and what its image says
	Spans    span.Presence
}

// ReadLayer reads what a snapshotter's root says of the layer key, which is the name of a
// directory in soci/layers. It changes nothing, asks
// nobody, and may be called while a snapshotter runs there: a layer that is just being made
// or removed can be an error that matches fs.ErrNotExist. With other errors its state is
// damaged; what is known of it is returned.
func ReadLayer(root, key string) (StoredLayer, error) {
	if !isLayerKey(key) {
		return StoredLayer{}, fmt.Errorf("read layer %q: not a layer's key", key)
	}
	s, err := stateDir(filepath.Join(root, "soci", "layers")).loadState(key)
	if err != nil {
		return StoredLayer{}, err
	}
	l := StoredLayer{Layer: s.Layer, ZTOC: s.ZTOC, Size: s.Size, Images: s.Images, Verified: s.Verified}
	l.Spans, err = span.Inspect(spansDir(root), key)
	return l, err
}

// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/opencontainers/go-digest"
)

// Labels beyond those that containerd itself defines. Their names are the
// incumbent's, except labelZTOC.
const (
	labelRemote      = "containerd.io/snapshot/remote" // the snapshot is served lazily
	labelRemoteValue = "remote snapshot"
	labelNamespace   = "containerd.io/snapshot/remote/namespace"
	labelHasIndex    = "containerd.io/snapshot/remote/has.soci.index.digest"
	labelSize        = "containerd.io/snapshot/remote/soci.size"
	labelIndexDigest = "containerd.io/snapshot/remote/soci.index.digest"
	labelZTOC        = "containerd.io/snapshot/remote/soci.ztoc.digest" // ours: with the layer digest it names the layer's state
)

// LayerRef says which layer of which image a snapshot is to hold. It is what
// the labels of a Prepare say, parsed and validated once.
type LayerRef struct {
	Target   string        // chain ID of the snapshot to make
	Image    string        // image reference, as the user gave it
	Manifest digest.Digest // of the image manifest
	Layer    digest.Digest // of the compressed layer

	Size   int64         // bytes of the compressed layer; 0 means not told
	Index  digest.Digest // explicit SOCI index; "" means not told
	DiffID digest.Digest // of the uncompressed layer; "" means not told
}

// errNotLayer says that a Prepare is for a container, not for an image's layer.
var errNotLayer = errors.New("not an image layer")

// parseLabels returns the layer that labels speak of. The error is errNotLayer
// for the labels of a container's snapshot, and names the label that is missing
// or malformed otherwise.
func parseLabels(labels map[string]string) (LayerRef, error) {
	r := LayerRef{Target: labels[snapshots.LabelSnapshotRef]}
	if r.Target == "" {
		return r, errNotLayer
	}
	r.Image = labels[snapshotters.TargetRefLabel]
	for _, f := range []struct {
		key      string
		required string // why; "" means optional
		dst      *digest.Digest
	}{
		{snapshotters.TargetLayerDigestLabel, "missing", &r.Layer}, // first: errors of the others are reported with it
		{snapshotters.TargetManifestDigestLabel, "missing", &r.Manifest},
		{labelIndexDigest, "", &r.Index},
		{snapshots.LabelSnapshotDiffID, "", &r.DiffID},
	} {
		v := labels[f.key]
		if v == "" {
			if f.required != "" {
				return r, fmt.Errorf("label %s: %s", f.key, f.required)
			}
			continue
		}
		d, err := digest.Parse(v)
		if err != nil {
			return r, fmt.Errorf("label %s: %w", f.key, err)
		}
		*f.dst = d
	}
	if r.Image == "" {
		return r, fmt.Errorf("label %s: missing", snapshotters.TargetRefLabel)
	}
	if v := labels[labelSize]; v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 {
			return r, fmt.Errorf("label %s: %q is not a size", labelSize, v)
		}
		r.Size = n
	}
	return r, nil
}

// remoteLabels returns the labels of a lazily served snapshot: those it was
// prepared with, and what a restart needs.
func remoteLabels(prepared map[string]string, namespace string, ztoc digest.Digest) map[string]string {
	l := make(map[string]string, len(prepared)+4)
	maps.Copy(l, prepared)
	l[labelRemote] = labelRemoteValue
	l[labelHasIndex] = "true"
	l[labelZTOC] = ztoc.String()
	if namespace != "" {
		l[labelNamespace] = namespace
	}
	return l
}

// isRemote reports whether labels are those of a lazily served snapshot.
func isRemote(labels map[string]string) bool {
	_, ok := labels[labelRemote]
	return ok
}

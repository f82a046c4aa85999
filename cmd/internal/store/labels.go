// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
)

// labelRef is the prefix of the labels by which containerd's garbage collector
// finds what a blob or an image needs.
const labelRef = "containerd.io/gc.ref.content."

// LabelIndex is the label of an image that keeps its SOCI index alive. It
// names the index that was made last, as the incumbent's does.
const LabelIndex = labelRef + "soci-index"

// LabelIndexOf is the label that keeps the index of one platform of an image
// alive, whatever is indexed after it.
func LabelIndexOf(platform string) string {
	return LabelIndex + "." + strings.ReplaceAll(platform, "/", "-")
}

// isManifest says whether content of this media type refers to other content.
func isManifest(mediaType string) bool {
	return images.IsManifestType(mediaType) || images.IsIndexType(mediaType)
}

// children is what is common to manifests and indexes of both families.
type children struct {
	Config    *ocispec.Descriptor  `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
	Manifests []ocispec.Descriptor `json:"manifests"`
}

// gcLabels returns the labels that tie the children of the manifest p to it.
func gcLabels(p []byte) (map[string]string, error) {
	var c children
	if err := json.Unmarshal(p, &c); err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	labels := make(map[string]string)
	add := func(kind string, list []ocispec.Descriptor) {
		for i, d := range list {
			labels[labelRef+kind+"."+strconv.Itoa(i)] = d.Digest.String()
		}
	}
	layer := "l"
	if c.Config != nil {
		labels[labelRef+"config"] = c.Config.Digest.String()
		if c.Config.MediaType == index.MediaTypeV1 || c.Config.MediaType == index.MediaTypeV2 {
			layer = "ztoc"
		}
	}
	add(layer, c.Layers)
	add("m", c.Manifests)
	return labels, nil
}

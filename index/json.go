// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The types of this file are the image-spec's documents with the fields kept that
// the image-spec does not know: a manifest that was read and is written back
// loses nothing. Known fields come first, in the image-spec's order, as the
// incumbent writes them; unknown ones follow, sorted by name.

// unknown are the fields of a JSON object that its type does not have.
type unknown map[string]json.RawMessage

// read sets u to the fields of the object p that are not among known. Names are
// compared as encoding/json compares them: without regard to case.
func (u *unknown) read(p []byte, known []string) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(p, &all); err != nil {
		return err
	}
	for name := range all {
		if slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, name) }) {
			delete(all, name)
		}
	}
	*u = all
	return nil
}

// write encodes known, a struct, with the fields of u behind its own.
func (u unknown) write(known any) ([]byte, error) {
	p, err := json.Marshal(known)
	if err != nil || len(u) == 0 {
		return p, err
	}
	rest, err := json.Marshal(map[string]json.RawMessage(u)) // sorts
	if err != nil {
		return nil, err
	}
	return slices.Concat(bytes.TrimSuffix(p, []byte("}")), []byte(","), rest[1:]), nil
}

// readList decodes the JSON array p of at most limit values. Without the limit a
// document of four bytes a value would take some hundred times its size.
func readList[T any](p []byte, limit int, to *[]T) error {
	*to = nil
	d := json.NewDecoder(bytes.NewReader(p))
	switch t, err := d.Token(); {
	case err != nil:
		return err
	case t == nil:
		return nil // null
	case t != json.Delim('['):
		return errors.New("not a list")
	}
	for d.More() {
		if len(*to) == limit {
			return fmt.Errorf("list of more than %d", limit)
		}
		var v T
		if err := d.Decode(&v); err != nil {
			return err
		}
		*to = append(*to, v)
	}
	return nil
}

// artifactList are the layers of a SOCI index.
type artifactList []ocispec.Descriptor

func (l *artifactList) UnmarshalJSON(p []byte) error {
	return readList(p, MaxLayers, (*[]ocispec.Descriptor)(l))
}

// layerList are the layers of an image manifest.
type layerList []descriptor

func (l *layerList) UnmarshalJSON(p []byte) error { return readList(p, MaxLayers, (*[]descriptor)(l)) }

// manifestList are the manifests of an image index.
type manifestList []descriptor

func (l *manifestList) UnmarshalJSON(p []byte) error {
	return readList(p, maxManifests, (*[]descriptor)(l))
}

// descriptor is an ocispec.Descriptor.
type descriptor struct {
	ocispec.Descriptor
	unknown unknown
}

func (d *descriptor) UnmarshalJSON(p []byte) error {
	if err := json.Unmarshal(p, &d.Descriptor); err != nil {
		return err
	}
	return d.unknown.read(p, []string{
		"mediaType", "digest", "size", "urls", "annotations", "data", "platform", "artifactType",
	})
}

func (d descriptor) MarshalJSON() ([]byte, error) { return d.unknown.write(d.Descriptor) }

// manifestFields are those of an ocispec.Manifest.
type manifestFields struct {
	specs.Versioned
	MediaType    string            `json:"mediaType,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Config       descriptor        `json:"config"`
	Layers       layerList         `json:"layers"`
	Subject      *descriptor       `json:"subject,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// manifest is an image manifest.
type manifest struct {
	manifestFields
	unknown unknown
}

func (m *manifest) UnmarshalJSON(p []byte) error {
	if err := json.Unmarshal(p, &m.manifestFields); err != nil {
		return err
	}
	return m.unknown.read(p, []string{
		"schemaVersion", "mediaType", "artifactType", "config", "layers", "subject", "annotations",
	})
}

func (m manifest) MarshalJSON() ([]byte, error) { return m.unknown.write(m.manifestFields) }

// imageIndexFields are those of an ocispec.Index.
type imageIndexFields struct {
	specs.Versioned
	MediaType    string            `json:"mediaType,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Manifests    manifestList      `json:"manifests"`
	Subject      *descriptor       `json:"subject,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// imageIndex is an image index.
type imageIndex struct {
	imageIndexFields
	unknown unknown
}

func (x *imageIndex) UnmarshalJSON(p []byte) error {
	if err := json.Unmarshal(p, &x.imageIndexFields); err != nil {
		return err
	}
	return x.unknown.read(p, []string{
		"schemaVersion", "mediaType", "artifactType", "manifests", "subject", "annotations",
	})
}

func (x imageIndex) MarshalJSON() ([]byte, error) { return x.unknown.write(x.imageIndexFields) }

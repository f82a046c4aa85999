// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/index/indextest"
)

// FuzzImage: an image's manifests and image indexes, whatever they say, list descriptors that are sound, and
// nothing that names itself is followed for ever.
func FuzzImage(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"`+emptyDigest+`","size":2,"platform":{"os":"linux","architecture":"amd64"}}]}`),
		[]byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"`+emptyDigest+`","size":2},"layers":[]}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[null,{"digest":"x"}]}`), []byte(`{"layers":[[]]}`))
	f.Fuzz(func(t *testing.T, image, manifest []byte) {
		s := new(indextest.Store)
		s.Add("", []byte("{}"))
		s.Add(ocispec.MediaTypeImageManifest, manifest)
		for _, mediaType := range []string{ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest} {
			list, err := index.Manifests(t.Context(), s, s.Add(mediaType, image))
			if err != nil {
				continue
			}
			for _, m := range list {
				if m.Manifest.Digest.Validate() != nil || m.Manifest.Size < 0 || len(list) > 256 {
					t.Errorf("%d manifests, one is %+v", len(list), m)
				}
			}
		}
	})
}

// FuzzFind: whatever the manifest and the index of an image are, what is found has the digest that was asked for.
func FuzzFind(f *testing.F) {
	p, desc, err := sample(index.V2).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(`"`+index.AnnotationIndexDigest+`":"`+desc.Digest.String()+`"`, p)
	f.Add(`"`+index.AnnotationIndexDigest+`":"sha256:../.."`, []byte("{}"))
	f.Fuzz(func(t *testing.T, annotations string, p []byte) {
		s := new(indextest.Store)
		s.Add(ocispec.MediaTypeImageManifest, p)
		manifest := manifestWith(s, annotations)
		for _, opts := range []index.FindOptions{{V1: true, V2: true}, {V2: true, Bound: true}, {Digest: digest.FromBytes(p)}} {
			x, got, err := index.Find(t.Context(), s, manifest.Digest, opts)
			if err != nil {
				if x != nil {
					t.Errorf("an index and %v", err)
				}
				continue
			}
			if got.Digest != digest.FromBytes(p) || len(x.Layers) > index.MaxLayers {
				t.Errorf("found %+v", got)
			}
		}
	})
}

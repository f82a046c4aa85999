// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"log"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/index/indextest"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// exampleLayer returns a gzip layer.
func exampleLayer() []byte {
	archive, err := ztoctest.Tar(ztoctest.Files(1, 10), ztoctest.TarOptions{})
	if err != nil {
		log.Fatal(err)
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(archive); err != nil {
		log.Fatal(err)
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	return b.Bytes()
}

// A store in memory stands in for containerd's content store or a registry.
func ExampleBuild() {
	ctx := context.Background()
	store := new(indextest.Store)
	manifest := store.Image(ocispec.Platform{OS: "linux", Architecture: "amd64"}, indextest.Layer{Content: exampleLayer()})

	x, desc, err := index.Build(ctx, store, manifest, index.V1, index.BuildOptions{MinLayerSize: -1})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(desc.ArtifactType, "with", len(x.Layers), "zTOC")

	found, _, err := index.Find(ctx, store, manifest.Digest, index.FindOptions{V1: true})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("found:", found.Subject.Digest == manifest.Digest)
	// Output:
	// application/vnd.amazon.soci.index.v1+json with 1 zTOC
	// found: true
}

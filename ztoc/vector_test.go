// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestVectors pins the bytes of zTOCs: testdata holds small layers, and gzipped,
// as the windows are mostly zeros, the zTOC of each. The format does not change,
// so neither do they; run with -update for a layer that is new.
func TestVectors(t *testing.T) {
	layers, err := filepath.Glob("testdata/*.layer")
	if err != nil || len(layers) < 4 {
		t.Fatalf("%d layers in testdata (%v), want at least 4", len(layers), err)
	}
	for _, path := range layers {
		t.Run(filepath.Base(path), func(t *testing.T) {
			layer := mustRead(t, path)
			z := mustBuild(t, layer, ztoc.BuildOptions{SpanSize: 1024})
			got := mustMarshal(t, z)
			if *update {
				if err := os.WriteFile(path+".ztoc.gz", mustGzip(t, got, ztoctest.Member{Level: 9}), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want := mustGunzip(t, mustRead(t, path+".ztoc.gz"))
			if !bytes.Equal(got, want) {
				t.Error("zTOC differs")
			}
			z = mustUnmarshal(t, want)
			if !bytes.Equal(mustMarshal(t, z), want) {
				t.Error("unmarshal and marshal do not give the same bytes")
			}
			plain := layer
			if z.ZInfo.Compression == ztoc.Gzip {
				plain = mustGunzip(t, layer)
			}
			checkSpans(t, z, layer, plain)
			checkTOC(t, z.TOC, plain)
		})
	}
}

// TestIncumbent reads a zTOC that awslabs/soci-snapshotter wrote, of 1 MiB spans,
// and writes the same bytes.
func TestIncumbent(t *testing.T) {
	want := mustGunzip(t, mustRead(t, "testdata/incumbent.ztoc.gz"))
	z := mustUnmarshal(t, want)
	if len(z.ZInfo.Spans) != 1 || len(z.TOC) == 0 || z.BuildTool != ztoc.DefaultBuildTool {
		t.Errorf("%d spans, %d entries, by %q", len(z.ZInfo.Spans), len(z.TOC), z.BuildTool)
	}
	if !bytes.Equal(mustMarshal(t, z), want) {
		t.Error("unmarshal and marshal do not give the same bytes")
	}
}

var update = flag.Bool("update", false, "write testdata anew")

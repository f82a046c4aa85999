// SPDX-License-Identifier: Apache-2.0

package span

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestPadding reads layers whose tar is followed by more zeros than a span
// holds: their last spans hold nothing, and start behind the tar's end.
func TestPadding(t *testing.T) {
	tar, err := ztoctest.Tar(ztoctest.Files(1, 20), ztoctest.TarOptions{Padding: 1 << 20})
	must(t, err)
	empty := 0
	for _, e := range ztoctest.Encoders() {
		if !e.Available() || e.Name == "zopfli" || e.Name == "7zip" {
			continue // these take a minute over a megabyte of zeros
		}
		blob, err := e.Encode(tar)
		must(t, err)
		for _, size := range []int64{ztoc.EveryBlock, 4096, 1 << 20} {
			t.Run(fmt.Sprintf("%s/%d", e.Name, size), func(t *testing.T) {
				z, err := ztoc.Build(t.Context(), bytes.NewReader(blob), ztoc.BuildOptions{SpanSize: size})
				must(t, err)
				if z.ZInfo.Spans[len(z.ZInfo.Spans)-1].Out.Off > z.ZInfo.UncompressedSize {
					empty++
				}
				d := &layerData{z.ZInfo, blob, tar[:z.ZInfo.UncompressedSize]}
				l := mustLayer(t, mustOpen(t, t.TempDir(), Options{}), d, d.source())
				mustRead(t, l, d, 0, int64(len(d.plain)))
			})
		}
	}
	if empty == 0 {
		t.Error("no layer had spans behind the tar's end")
	}
}

// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"github.com/seekoci/seekoci/ztoc"
)

// A file of a layer is read from the one span that holds it.
func Example() {
	layer, err := os.ReadFile("testdata/dynamic.layer")
	if err != nil {
		fmt.Println(err)
		return
	}
	z, err := ztoc.Build(context.Background(), bytes.NewReader(layer), ztoc.BuildOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, e := range z.TOC {
		if e.Name != "etc/hostname" {
			continue
		}
		id := z.ZInfo.SpanAt(e.Offset)
		span := z.ZInfo.Spans[id]
		src := layer[span.In.Off:span.In.End()] // or a range request to a registry
		if err := z.ZInfo.Verify(id, src); err != nil {
			fmt.Println(err)
			return
		}
		dst := make([]byte, span.Out.Len)
		if err := z.ZInfo.Decode(dst, id, src); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s", dst[e.Offset-span.Out.Off:][:e.Size])
	}
	// Output: seekoci
}

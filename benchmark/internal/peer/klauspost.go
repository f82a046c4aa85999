// SPDX-License-Identifier: Apache-2.0

// Package peer has what others would do a span's work with, for comparison.
//
//	decode := peer.Klauspost()
//	err := decode(dst, z, id, src)
package peer

import (
	"bytes"
	"io"

	"github.com/klauspost/compress/flate"

	"github.com/seekoci/seekoci/ztoc"
)

// Klauspost returns a function that fills dst with span id of z from src, the layer's bytes of that span and a few behind
// it, as far as the layer has any. It has one reader of klauspost/compress for all spans,
// cannot cross gzip members, and is not safe for concurrent use.
func Klauspost() func(dst []byte, z *ztoc.ZInfo, id int, src []byte) error {
	in := bytes.NewReader(nil)
	r := flate.NewReaderOpts(in).(interface {
		io.Reader
		ResetCP(io.Reader, flate.InflateCheckpoint) error
	})
	return func(dst []byte, z *ztoc.ZInfo, id int, src []byte) error {
		s := &z.Spans[id]
		in.Reset(src)
		if err := r.ResetCP(in, flate.InflateCheckpoint{BitOffset: (8 - s.Bits) & 7, Window: s.Window}); err != nil {
			return err
		}
		_, err := io.ReadFull(r, dst)
		return err
	}
}

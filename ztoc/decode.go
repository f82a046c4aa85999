// SPDX-License-Identifier: Apache-2.0

package ztoc

// SpanAt returns the id of the span that holds uncompressed offset off,
// 0 <= off < z.UncompressedSize.
func (z *ZInfo) SpanAt(off int64) int { panic("not yet") }

// Verify checks src, the bytes of Spans[id].In, against the span's digest.
func (z *ZInfo) Verify(id int, src []byte) error { panic("not yet") }

// Decode inflates span id from src, the verified bytes of Spans[id].In, into dst,
// whose length must be Spans[id].Out.Len. It is safe for concurrent use and does
// not allocate after warm-up.
func (z *ZInfo) Decode(dst []byte, id int, src []byte) error { panic("not yet") }

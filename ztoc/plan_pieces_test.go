// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bytes"
	"math"
	"testing"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

// eachPiece inflates a gzip layer and hands it on in pieces of about size bytes, with
// the matches of the zones of span size s traced, as the stages of a pass do.
func eachPiece(t testing.TB, layer []byte, s int64, size int, yield func(*piece)) int64 {
	t.Helper()
	var (
		d    = new(inflate.Decoder)
		buf  = make([]byte, inflate.WindowSize+size+600)
		list = make([]inflate.Ref, 1<<14)
		hist = 0
		off  int64
		in   int
		zone = zoneOf(s)
	)
	p := &piece{}
	flush := func(pos int) {
		if pos == hist && len(p.blocks) == 0 {
			return
		}
		p.hist, p.data, p.off = buf[:hist], buf[hist:pos], off
		yield(p)
		off += int64(pos - hist)
		keep := min(pos, inflate.WindowSize)
		copy(buf, buf[pos-keep:pos])
		hist = keep
		*p = piece{bit: p.bit, refs: refs{p.refs.list[:0], p.refs.runs[:0]}, blocks: p.blocks[:0]}
	}
	for in < len(layer) {
		r := bytes.NewReader(layer[in:])
		if err := readGzipHeader(r); err != nil {
			t.Fatal(err)
		}
		in = len(layer) - r.Len()
		d.Reset(0)
		p.blocks = append(p.blocks, blockStart{out: off, bit: int64(in) * 8, member: true})
		p.bit = int64(in) * 8
		pending := true // the last block's header is not known yet
		pos := hist
		for {
			d.Trace(list, math.MaxInt)
			start := in
			base := off - int64(hist)
			var stop inflate.Stop
			var err error
			pos, in, stop, err = d.Decode(buf, pos, hist+size, layer[start:], 0, true)
			in += start
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range d.Refs() {
				out := base + int64(f.Pos)
				k := (out + zone) / s * s // the only grid point whose zone may hold out
				if k > 0 && out > k-zone && out < k+inflate.WindowSize {
					p.refs.list = append(p.refs.list, f)
					p.refs.add(0, base, int64(start)*8)
					p.refs.runs[len(p.refs.runs)-1].n++
				}
			}
			at := int64(in)*8 - int64(d.Bits())
			if pending && at > p.bit { // else nothing of the block has been read
				h, n := d.Header()
				b := &p.blocks[len(p.blocks)-1]
				b.header, b.headerBits = bytes.Clone(h), n
				pending = false
			}
			p.bit = at
			switch stop {
			case inflate.BlockEnd:
				p.blocks = append(p.blocks, blockStart{out: base + int64(pos), bit: p.bit})
				pending = true
				continue
			case inflate.RefsFull:
				continue
			case inflate.NeedOutput:
				if pending {
					b := p.blocks[len(p.blocks)-1]
					p.blocks = p.blocks[:len(p.blocks)-1]
					flush(pos)
					p.blocks = append(p.blocks, b)
				} else {
					flush(pos)
				}
				pos = hist
				continue
			}
			break
		}
		in += gzipTrailer
		flush(pos)
	}
	return off
}

// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"encoding/binary"
	"sync"

	"github.com/klauspost/compress/huff0"
	"github.com/klauspost/compress/zstd"
)

// windowPacker packs the parts of groups.
type windowPacker struct {
	data *zstd.Encoder
	rest huff0.Scratch // of the parts in which nothing repeats
	body []byte
}

// windowPackers keeps idle ones.
var windowPackers sync.Pool

// borrowWindowPacker returns an idle packer, or a new one. It goes back to
// windowPackers. Windows are packed while the layer is read: better levels gain up to
// 7%, but take several times as long, as their tables do not stay in the cache.
func borrowWindowPacker() *windowPacker {
	if p, ok := windowPackers.Get().(*windowPacker); ok {
		return p
	}
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(maxGroupSize))
	if err != nil {
		panic("ztoc: internal error: " + err.Error()) // the options are constants
	}
	return &windowPacker{data: e}
}

// group appends the group of parts to dst.
func (p *windowPacker) group(dst []byte, parts *[numParts][]byte) []byte {
	p.body = p.body[:0]
	for i, part := range parts {
		stored := len(p.body)
		if i == partData {
			p.body = pack(p.data, p.body, part)
		} else {
			p.body = packHuffman(&p.rest, p.body, part)
		}
		dst = binary.AppendUvarint(dst, uint64(len(part)))
		dst = binary.AppendUvarint(dst, uint64(len(p.body)-stored))
	}
	return append(dst, p.body...)
}

// windowWriter collects the windows of spans, in groups.
type windowWriter struct {
	target int // bytes of the parts at which a group is done
	spans  int // in the group
	parts  [numParts][]byte
	groups []byte // directory
	packer *windowPacker
	group  []byte // that was packed last
	out    *spool // the groups
	err    error  // the first of out
}

func newWindowWriter(spanSize int64, out *spool) *windowWriter {
	return &windowWriter{target: int(min(max(spanSize/groupRatio, minGroup), maxGroup)), out: out}
}

// begin begins the window of the next span, which is within a block if its header
// has bits: it is header from bit start (0-7) on.
func (w *windowWriter) begin(ranges int, header []byte, start, bits int) {
	p := &w.parts
	p[partCounts] = binary.AppendUvarint(p[partCounts], uint64(ranges))
	p[partCounts] = binary.AppendUvarint(p[partCounts], uint64(bits))
	for i := 0; i < bits; i += 8 {
		k := (start + i) / 8
		v := uint16(header[k])
		if k+1 < len(header) {
			v |= uint16(header[k+1]) << 8
		}
		b := byte(v >> (start & 7))
		if rest := bits - i; rest < 8 {
			b &= 1<<rest - 1
		}
		p[partHeaders] = append(p[partHeaders], b)
	}
	w.spans++
}

// add appends a range of the window.
func (w *windowWriter) add(gap int, data []byte) {
	p := &w.parts
	p[partGaps] = binary.AppendUvarint(p[partGaps], uint64(gap))
	p[partLens] = binary.AppendUvarint(p[partLens], uint64(len(data)-1))
	p[partData] = append(p[partData], data...)
}

// end ends the window.
func (w *windowWriter) end() {
	total := 0
	for _, p := range w.parts {
		total += len(p)
	}
	if total >= w.target || w.spans == maxGroupSpans {
		w.flush()
	}
}

// flush packs the group.
func (w *windowWriter) flush() {
	if w.spans == 0 || w.err != nil {
		return
	}
	if w.packer == nil {
		w.packer = borrowWindowPacker()
	}
	w.group = w.packer.group(w.group[:0], &w.parts)
	for i, p := range w.parts {
		w.parts[i] = p[:0]
	}
	w.groups = binary.AppendUvarint(w.groups, uint64(w.spans))
	w.groups = binary.AppendUvarint(w.groups, uint64(len(w.group)))
	w.spans = 0
	w.err = w.out.append(w.group)
}

// finish packs the last group.
func (w *windowWriter) finish() error {
	w.flush()
	if w.packer != nil {
		windowPackers.Put(w.packer)
		w.packer = nil
	}
	return w.err
}

// write appends the sections of the windows, which are finished.
func (w *windowWriter) write(s *sectionWriter) {
	s.text(w.groups)
	s.spooled(w.out)
}

// packHuffman appends p to dst, as a zstd frame if that is smaller: a block of
// literals without sequences, which suits what has no repetitions, and takes little
// time. See RFC 8878, 3.1.1.3.1.
func packHuffman(s *huff0.Scratch, dst, p []byte) []byte {
	const (
		maxBlock     = 128 << 10
		fewLiterals  = 1 << 10 // fewer go in one stream
		moreLiterals = 1 << 14
		compressed   = 2 // type of the literals, and of the block
		lastBlock    = 1
	)
	if len(p) < leastPacked || len(p) > maxBlock {
		return append(dst, p...)
	}
	var (
		out    []byte
		err    error
		format uint64 // of the sizes of the literals
		bits   = 10   // of one
	)
	s.Reuse = huff0.ReusePolicyNone
	if len(p) < fewLiterals {
		out, _, err = huff0.Compress1X(p, s)
	} else {
		out, _, err = huff0.Compress4X(p, s)
		if format, bits = 2, 14; len(p) >= moreLiterals {
			format, bits = 3, 18
		}
	}
	head := (4 + 2*bits + 7) / 8
	block := head + len(out) + 1 // the last byte says that there are no sequences
	before := len(dst)
	if err != nil || block > len(p) {
		return append(dst, p...)
	}
	dst = append(dst, 0x28, 0xb5, 0x2f, 0xfd)
	switch n := len(p); { // a single segment, of so many bytes
	case n < 1<<8:
		dst = append(dst, 1<<5, byte(n))
	case n < 1<<16+1<<8:
		dst = binary.LittleEndian.AppendUint16(append(dst, 1<<6|1<<5), uint16(n-1<<8))
	default:
		dst = binary.LittleEndian.AppendUint32(append(dst, 2<<6|1<<5), uint32(n))
	}
	h := uint32(block)<<3 | compressed<<1 | lastBlock
	dst = append(dst, byte(h), byte(h>>8), byte(h>>16))
	l := compressed | format<<2 | uint64(len(p))<<4 | uint64(len(out))<<(4+bits)
	for range head {
		dst = append(dst, byte(l))
		l >>= 8
	}
	if dst = append(append(dst, out...), 0); len(dst)-before >= len(p) {
		dst = append(dst[:before], p...)
	}
	return dst
}

// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/seekoci/seekoci/ztoc/internal/inflate"
)

// regular returns n entries in directories of 1,000.
func regular(n int) []Entry {
	toc := make([]Entry, n)
	for i := range toc {
		toc[i] = Entry{
			Type: TypeReg, Name: fmt.Sprintf("d%d/file-%d", i/1000, i), Offset: int64(2*i+1) * tarBlock, Size: 1,
			ModTime: time.Unix(int64(i)*7, 0).UTC(),
		}
	}
	return toc
}

// TestCompactLies changes a table behind its writer's back: Check notices, and
// whatever is used of it nothing panics.
func TestCompactLies(t *testing.T) {
	constant := func(c *column, v int64) { *c = column{n: c.n, base: v} }
	for name, lie := range map[string]func(*table){
		"own child":           func(t *table) { constant(&t.firsts, 0) },
		"children go round":   func(t *table) { constant(&t.firsts, 1) },
		"children far behind": func(t *table) { constant(&t.firsts, math.MaxInt64) },
		"children below 0":    func(t *table) { constant(&t.kids, -1) },
		"children overflow":   func(t *table) { constant(&t.kids, math.MaxInt64/32) },
		"one child each":      func(t *table) { constant(&t.kids, 1) },
		"same rank": func(t *table) {
			t.ranks = column{kind: colRunning, n: t.nodes, more: &column{n: blocks(t.nodes), base: 5}}
		},
		"no rank":         func(t *table) { t.ranks = column{kind: colRunning, n: t.nodes, more: &column{n: blocks(t.nodes)}} },
		"empty names":     func(t *table) { constant(&t.shared, 0); constant(&t.suffix, 0) },
		"shares too much": func(t *table) { constant(&t.shared, 256) },
		"shares below 0":  func(t *table) { constant(&t.shared, -1) },
		"suffix below 0":  func(t *table) { constant(&t.suffix, -1) },
		"text before":     func(t *table) { constant(&t.textAt, -1) },
		"text behind":     func(t *table) { constant(&t.textAt, math.MaxInt64) },
		"long name":       func(t *table) { constant(&t.suffix, 255); t.text = bytes.Repeat([]byte{0xff}, len(t.text)) },
		"slashes":         func(t *table) { t.text = bytes.Repeat([]byte{'/'}, len(t.text)) },
		"no such class":   func(t *table) { constant(&t.classOf, 7) },
		"class below 0":   func(t *table) { constant(&t.classOf, -1) },
		"class at":        func(t *table) { constant(&t.classAt, math.MinInt64) },
		"size below 0":    func(t *table) { constant(&t.sizes, -1) },
		"sizes overflow":  func(t *table) { constant(&t.sizes, math.MaxInt64) },
		"gap below 0":     func(t *table) { constant(&t.gaps, -1) },
		"offsets":         func(t *table) { constant(&t.offsetAt, 3) },
		"offset below 0":  func(t *table) { constant(&t.offsetAt, math.MinInt64) },
		"nanoseconds":     func(t *table) { constant(&t.nsec, nanos) },
		"dictionary": func(t *table) {
			t.sec = column{kind: colDict, width: 1, n: t.entries, data: bytes.Repeat([]byte{9}, t.entries), more: &column{kind: colRunning, n: 9, more: &column{n: 1}}}
		},
		"strings":       func(t *table) { constant(&t.extraLen, 1) },
		"strings at":    func(t *table) { constant(&t.extraAt, 1) },
		"outside":       func(t *table) { t.outside = []byte{1, 'x'} },
		"many records":  func(t *table) { classRecords(t, maxRecords+1) },
		"style":         func(t *table) { t.classes[1] = styleDot | styleRoot },
		"another style": func(t *table) { t.classes[1] = styleVerbatim | 1 },
	} {
		t.Run(name, func(t *testing.T) {
			p, err := encodedBy(nil, plainSource(regular(3000)))
			if err != nil {
				t.Fatal(err)
			}
			c := mustOpen(t, p)
			if err := c.Check(); err != nil {
				t.Fatal(err)
			}
			lie(&c.table)
			if err := c.Check(); !errors.Is(err, ErrFormat) {
				t.Errorf("error %v, want ErrFormat", err)
			}
			exercise(t, c)
			for _, name := range []string{"d0/file-0", "d1/file-1999", "d2/file-2063", "d2/file", "d3/x"} {
				c.Lookup(name)
			}
		})
	}
}

// classRecords gives the class of t so many records, all within the table.
func classRecords(t *table, n int) {
	t.classes = append(t.classes[:len(t.classes)-1:len(t.classes)-1], binary.AppendUvarint(nil, uint64(n))...)
	t.classes = append(t.classes, make([]byte, 2*n)...)
	t.classText = string(t.classes)
}

// TestCompactBombs has small files that ask for a lot.
func TestCompactBombs(t *testing.T) {
	enc := borrowCompressor()
	defer compressors.Put(enc)
	valid, err := encodedBy(nil, plainSource(regular(10)))
	if err != nil {
		t.Fatal(err)
	}
	zeros := enc.EncodeAll(make([]byte, 16<<20), nil)
	open := func(dir, body []byte) error {
		p := append([]byte{}, valid[:compactHeader]...)
		binary.LittleEndian.PutUint32(p[12:], uint32(len(dir)))
		_, err := OpenCompact(append(append(p, dir...), body...))
		return err
	}
	head := func(v ...uint64) []byte {
		var p []byte
		for _, v := range v {
			p = binary.AppendUvarint(p, v)
		}
		return p
	}
	const layer = 1 << 40
	for name, tt := range map[string]struct {
		dir, body []byte
		want      error
	}{
		"tool":       {head(2, layer, layer, 512, 1, 0, 1, 0, 16<<20, uint64(len(zeros))), zeros, ErrFormat},
		"starts":     {head(2, layer, layer, 512, 1, 0, 1, 0, 0, 0, 16<<20, uint64(len(zeros))), zeros, ErrFormat},
		"huge":       {head(2, layer, layer, 512, 1, 0, 1, 0, 0, 0, math.MaxUint64, 1), zeros, ErrFormat},
		"spans":      {head(2, layer, layer, 512, math.MaxUint64, 0, 1, 0), zeros, ErrFormat},
		"many spans": {head(2, layer, layer, 512, 1<<20, 0, 1, 0), zeros, ErrFormat},
		"entries":    {head(2, layer, layer, 512, 1, MaxEntries+1, 1, 0), nil, ErrFormat},
		"nodes":      {head(2, layer, layer, 512, 1, 0, maxNodes+1, 0), nil, ErrFormat},
	} {
		if err := open(tt.dir, tt.body); !errors.Is(err, tt.want) {
			t.Errorf("%s: error %v, want %v", name, err, tt.want)
		}
	}
	if got := unpackLimit(MaxSize); got > MaxTOCSize+MaxSize {
		t.Errorf("%d bytes from %d", got, MaxSize)
	}
}

// TestUnpack has sections that are not what the directory says.
func TestUnpack(t *testing.T) {
	enc, err := zstd.NewWriter(nil, zstd.WithZeroFrames(true))
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	d := borrowDecompressor()
	defer decompressors.Put(d)
	data := []byte(strings.Repeat("some data ", 1000))
	frame := enc.EncodeAll(data, nil)
	two := enc.EncodeAll(data[5000:], enc.EncodeAll(data[:5000], nil))
	for name, tt := range map[string]struct {
		stored []byte
		size   int
		ok     bool
	}{
		"whole":      {frame, len(data), true},
		"two frames": {two, len(data), true},
		"empty one":  {enc.EncodeAll(nil, bytes.Clone(frame)), len(data), true},
		"too long":   {frame, len(data) - 1, false},
		"two long":   {two, len(data) - 1, false},
		"too short":  {frame, len(data) + 1, false},
		"cut":        {frame[:len(frame)-1], len(data), false},
		"garbage":    {append(bytes.Clone(frame), 1), len(data), false},
		"nothing":    {nil, len(data), false},
	} {
		buf := make([]byte, tt.size+1)
		buf[tt.size] = 0xa5
		if err := unpack(d, buf[:tt.size], tt.stored); (err == nil) != tt.ok || err == nil && !bytes.Equal(buf[:tt.size], data) {
			t.Errorf("%s: error %v", name, err)
		}
		if buf[tt.size] != 0xa5 {
			t.Errorf("%s: written behind the end", name)
		}
	}
}

// TestWindowLies has groups of windows that lead out of what there is.
func TestWindowLies(t *testing.T) {
	u := func(v ...uint64) []byte {
		var p []byte
		for _, v := range v {
			p = binary.AppendUvarint(p, v)
		}
		return p
	}
	for name, parts := range map[string][numParts][]byte{
		"no counts":       {},
		"many ranges":     {partCounts: u(math.MaxUint64, 0)},
		"no ranges":       {partCounts: u(1, 0)},
		"header":          {partCounts: u(0, 9), partHeaders: []byte{1}},
		"header overflow": {partCounts: u(0, math.MaxUint64)},
		"gap":             {partCounts: u(1, 0), partGaps: u(inflate.WindowSize), partLens: u(0), partData: []byte{1}},
		"gap overflow":    {partCounts: u(1, 0), partGaps: u(math.MaxUint64), partLens: u(0), partData: []byte{1}},
		"length":          {partCounts: u(1, 0), partGaps: u(0), partLens: u(1), partData: []byte{1}},
		"length overflow": {partCounts: u(2, 0), partGaps: u(1, inflate.WindowSize-1), partLens: u(math.MaxUint64, 0), partData: []byte{1}},
	} {
		var (
			buf  [inflate.WindowSize]byte
			head blockHead
		)
		x := groupScratch{parts: parts}
		if err := x.window(0, &buf, &head); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: error %v, want ErrFormat", name, err)
		}
	}
}

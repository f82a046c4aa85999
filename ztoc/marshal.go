// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"fmt"
	"time"
)

// Checkpoint blobs, see FORMAT.md.
const (
	checkpointHeader = 4 + 8 // count, span size
	legacyFirstIn    = 10    // of the first checkpoint of a v1 blob, which is not stored
	tarZinfoVersion  = 2
)

// typeNames are the wire names of the entry types.
var typeNames = [...]string{
	TypeReg: "reg", TypeDir: "dir", TypeSymlink: "symlink", TypeHardlink: "hardlink",
	TypeChar: "char", TypeBlock: "block", TypeFifo: "fifo",
}

// String returns the name of the type in the wire format: reg, dir, symlink,
// hardlink, char, block or fifo.
func (t EntryType) String() string {
	if t < TypeReg || t > TypeFifo {
		return fmt.Sprintf("EntryType(%d)", uint8(t))
	}
	return typeNames[t]
}

// String returns "gzip" or "uncompressed".
func (c Compression) String() string {
	switch c {
	case Gzip:
		return "gzip"
	case Uncompressed:
		return "uncompressed"
	}
	return fmt.Sprintf("Compression(%d)", int8(c))
}

// Marshal encodes z as zTOC 0.9, byte for byte as the incumbent does. A zTOC of
// more than MaxSize bytes is ErrLimit.
func (z *ZTOC) Marshal() ([]byte, error) {
	m := wireWriter{version: z.Version, tool: z.BuildTool, entries: toc(z.TOC), zinfo: z.ZInfo}
	m.window = func(i int) ([]byte, error) { return z.ZInfo.Spans[i].Window, nil }
	err := m.measure()
	if err != nil {
		return nil, fmt.Errorf("marshal zTOC: %w", err)
	}
	p := make(appender, 0, m.size)
	if err := m.write(&p); err != nil {
		return nil, fmt.Errorf("marshal zTOC: %w", err)
	}
	return p, nil
}

// appender is a buffer that grows by what is written to it.
type appender []byte

func (a *appender) Write(p []byte) (int, error) {
	*a = append(*a, p...)
	return len(p), nil
}

// Times that have no wire form, those beyond year 9999, are empty strings there.
// They read back as the first second of year 10000, which has none either.
const noTime = 253402300800

// maxTime is the length of the longest wire form of a time.
const maxTime = len("2006-01-02T15:04:05.999999999+00:00")

// appendTime appends the wire form of t to p.
func appendTime(p []byte, t time.Time) []byte {
	q, err := t.AppendText(p)
	if err != nil {
		return p
	}
	return q
}

// wireTime returns t as it reads back from a zTOC 0.9.
func wireTime(t time.Time) time.Time {
	if len(appendTime(nil, t)) == 0 {
		return time.Unix(noTime, 0).UTC()
	}
	return t
}

// unmarshalTime returns the time of wire form p.
func unmarshalTime(p []byte) (time.Time, error) {
	if len(p) == 0 {
		return time.Unix(noTime, 0).UTC(), nil
	}
	var t time.Time
	err := t.UnmarshalText(p)
	return t, err
}

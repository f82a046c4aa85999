// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"path"
	"slices"

	"github.com/opencontainers/go-digest"
)

// Format is an encoding of zTOCs.
type Format string

// The formats of FORMAT.md.
const (
	Format09      Format = "0.9"     // the incumbent's
	FormatCompact Format = "compact" // ours
)

// Len is the number of entries.
func (z *ZTOC) Len() int { return len(z.TOC) }

// Entries yields the entries in tar order, with their numbers.
func (z *ZTOC) Entries() iter.Seq2[int, Entry] { return slices.All(z.TOC) }

// WriteWindows writes to w, a hash, what the windows of a compact zTOC are made of: with
// the same spans and the same bytes here, spans decode to the same. It writes nothing
// where spans have a Window.
func (z *ZInfo) WriteWindows(w io.Writer) error {
	if z.windows == nil {
		return nil
	}
	for _, g := range z.windows.groups {
		var size [16]byte
		binary.LittleEndian.PutUint64(size[:], uint64(g.first))
		binary.LittleEndian.PutUint64(size[8:], uint64(len(g.p)))
		if _, err := w.Write(size[:]); err != nil {
			return err
		}
		if _, err := w.Write(g.p); err != nil {
			return err
		}
	}
	return nil
}

// Reader reads a zTOC of either format. It is safe for concurrent use.
type Reader struct {
	z     *ZTOC    // nil if it is compact
	c     *Compact // nil if it is not
	zinfo *ZInfo
}

// Open opens a zTOC, whichever format it has. It is validated as by [Unmarshal] or
// [OpenCompact], and p may not be changed while the Reader is in use.
func Open(p []byte) (*Reader, error) {
	if bytes.HasPrefix(p, []byte(compactMagic)) {
		c, err := OpenCompact(p)
		if err != nil {
			return nil, err
		}
		zinfo := *c.ZInfo() // a pointer into c would keep the table as long as spans are decoded
		return &Reader{c: c, zinfo: &zinfo}, nil
	}
	z, err := Unmarshal(p)
	if err != nil {
		return nil, err
	}
	return &Reader{z: z, zinfo: z.ZInfo}, nil
}

// Format is the encoding.
func (r *Reader) Format() Format {
	if r.c != nil {
		return FormatCompact
	}
	return Format09
}

// Version is the version of the format: "0.9" or, of the compact one, "v1".
func (r *Reader) Version() string {
	if r.c != nil {
		return fmt.Sprintf("v%d", compactVersion)
	}
	return r.z.Version
}

// BuildTool says what made the zTOC.
func (r *Reader) BuildTool() string {
	if r.c != nil {
		return r.c.BuildTool()
	}
	return r.z.BuildTool
}

// ZInfo is what spans are decoded with. It does not need the rest of the zTOC in memory.
func (r *Reader) ZInfo() *ZInfo { return r.zinfo }

// LayerDigest is the digest of the layer, "" in the format 0.9, which does not say it.
func (r *Reader) LayerDigest() digest.Digest {
	if r.c != nil {
		return r.c.LayerDigest()
	}
	return ""
}

// DiffID is the digest of the uncompressed layer, "" in the format 0.9, which does not say it.
func (r *Reader) DiffID() digest.Digest {
	if r.c != nil {
		return r.c.DiffID()
	}
	return ""
}

// Len is the number of entries.
func (r *Reader) Len() int {
	if r.c != nil {
		return r.c.Len()
	}
	return r.z.Len()
}

// Entries yields the entries in tar order, with their numbers. Where the table of a
// compact zTOC is malformed they end early, before there are Len of them.
func (r *Reader) Entries() iter.Seq2[int, Entry] {
	if r.c != nil {
		return r.c.Entries()
	}
	return r.z.Entries()
}

// Lookup returns the entry with the path name, which is cleaned as by path.Clean. Of
// duplicates the last one counts, as in tar.
func (r *Reader) Lookup(name string) (Entry, bool) {
	if r.c != nil {
		e, ok := r.c.Lookup(name)
		if !ok {
			e, ok = r.c.Lookup(path.Clean("/" + name)) // to a compact zTOC ".." is a name
		}
		return e, ok
	}
	name = path.Clean("/" + name)
	for i := len(r.z.TOC) - 1; i >= 0; i-- {
		if path.Clean("/"+r.z.TOC[i].Name) == name {
			return r.z.TOC[i], true
		}
	}
	return Entry{}, false
}

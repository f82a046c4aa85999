// SPDX-License-Identifier: Apache-2.0

package index

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/ztoc"
)

// Bounds of a profile.
const (
	MaxProfileSize   = 1 << 20 // bytes
	MaxProfileRanges = 1 << 15
)

const (
	docProfile     = "profile"
	profileVersion = 1
)

// Profile lists what a container's start reads of a layer, in the order in which it
// does. It is about uncompressed bytes, so that it is of use with any zTOC of the layer. FORMAT.md
// describes it on the wire.
type Profile struct {
	Size   int64        // uncompressed bytes of the layer, as its zTOCs say it
	Ranges []ztoc.Range // disjoint, within Size, not empty
}

// profileDoc is a profile on the wire.
type profileDoc struct {
	Version int        `json:"version"`
	Size    int64      `json:"size"`
	Ranges  [][2]int64 `json:"ranges"`
}

// NewProfile makes a profile of ranges, which may overlap: a byte counts where it
// comes first. Ranges outside of the layer are cut. What is beyond MaxProfileRanges is left out.
func NewProfile(size int64, ranges []ztoc.Range) *Profile {
	p := &Profile{Size: size}
	var have []ztoc.Range // sorted, disjoint and not adjacent
	for _, r := range ranges {
		off, end := max(r.Off, 0), size
		if r.Off < size && r.Len < size-r.Off {
			end = r.End()
		}
		for _, r := range missing(have, off, end) {
			if len(p.Ranges) == MaxProfileRanges {
				return p
			}
			p.append(r)
		}
		have = cover(have, off, end)
	}
	return p
}

// append adds r, to the last range if it goes on there.
func (p *Profile) append(r ztoc.Range) {
	if k := len(p.Ranges) - 1; k >= 0 && p.Ranges[k].End() == r.Off {
		p.Ranges[k].Len += r.Len
		return
	}
	p.Ranges = append(p.Ranges, r)
}

// overlapping returns which of the sorted ranges have touch or overlap [off, end).
func overlapping(have []ztoc.Range, off, end int64) (first, last int) {
	first, _ = slices.BinarySearchFunc(have, off, func(h ztoc.Range, off int64) int {
		if h.End() < off {
			return -1
		}
		return 1
	})
	for last = first; last < len(have) && have[last].Off <= end; last++ {
	}
	return first, last
}

// missing returns the parts of [off, end) that are not in have.
func missing(have []ztoc.Range, off, end int64) []ztoc.Range {
	var out []ztoc.Range
	first, last := overlapping(have, off, end)
	for _, h := range have[first:last] {
		if h.Off > off {
			out = append(out, ztoc.Range{Off: off, Len: h.Off - off})
		}
		off = max(off, h.End())
	}
	if off < end {
		out = append(out, ztoc.Range{Off: off, Len: end - off})
	}
	return out
}

// cover adds [off, end) to have.
func cover(have []ztoc.Range, off, end int64) []ztoc.Range {
	if off >= end {
		return have
	}
	first, last := overlapping(have, off, end)
	if first < last {
		off, end = min(off, have[first].Off), max(end, have[last-1].End())
	}
	return slices.Replace(have, first, last, ztoc.Range{Off: off, Len: end - off})
}

// Marshal encodes p. The descriptor has no annotations yet.
func (p *Profile) Marshal() ([]byte, ocispec.Descriptor, error) {
	d := profileDoc{Version: profileVersion, Size: p.Size, Ranges: make([][2]int64, len(p.Ranges))}
	for i, r := range p.Ranges {
		d.Ranges[i] = [2]int64{r.Off, r.Len}
	}
	b, err := json.Marshal(d)
	if err != nil {
		return nil, ocispec.Descriptor{}, fmt.Errorf("marshal profile: %w", err)
	}
	if _, err := UnmarshalProfile(b); err != nil {
		return nil, ocispec.Descriptor{}, fmt.Errorf("marshal profile: %w", err)
	}
	return b, ocispec.Descriptor{MediaType: MediaTypeProfile, Digest: digest.FromBytes(b), Size: int64(len(b))}, nil
}

// UnmarshalProfile decodes and validates a profile. Errors match ErrFormat.
func UnmarshalProfile(b []byte) (*Profile, error) {
	if len(b) > MaxProfileSize {
		return nil, malformed(docProfile, "%d bytes, more than %d", len(b), MaxProfileSize)
	}
	var d profileDoc
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, malformed(docProfile, "%v", err)
	}
	switch {
	case d.Version != profileVersion:
		return nil, malformed(docProfile, "version %d", d.Version)
	case d.Size < 0:
		return nil, malformed(docProfile, "size %d", d.Size)
	case len(d.Ranges) > MaxProfileRanges:
		return nil, malformed(docProfile, "%d ranges, more than %d", len(d.Ranges), MaxProfileRanges)
	}
	p := &Profile{Size: d.Size, Ranges: make([]ztoc.Range, len(d.Ranges))}
	for i, r := range d.Ranges {
		if r[0] < 0 || r[1] <= 0 || r[1] > d.Size-r[0] {
			return nil, malformed(docProfile, "range %d: [%d,+%d) of %d bytes", i, r[0], r[1], d.Size)
		}
		p.Ranges[i] = ztoc.Range{Off: r[0], Len: r[1]}
	}
	sorted := slices.SortedFunc(slices.Values(p.Ranges), func(a, b ztoc.Range) int { return int(max(-1, min(1, a.Off-b.Off))) })
	for i := 1; i < len(sorted); i++ {
		if sorted[i].Off < sorted[i-1].End() {
			return nil, malformed(docProfile, "bytes from %d on are listed twice", sorted[i].Off)
		}
	}
	return p, nil
}

// Len is the number of bytes that p lists.
func (p *Profile) Len() int64 {
	var n int64
	for _, r := range p.Ranges {
		n += r.Len
	}
	return n
}

// Prefetch returns the spans of a zTOC with zInfo z that hold what p lists, as a prefetch artifact lists
// them: sorted, without the order that p has.
func (p *Profile) Prefetch(z *ztoc.ZInfo) *Prefetch {
	var in []SpanRange
	for _, r := range p.Ranges {
		first, end := z.SpansOf(r)
		in = append(in, SpanRange{Start: first, End: end})
	}
	return &Prefetch{Spans: mergeSpans(in)}
}

// Profile returns what p lists, as far as it is within a layer with zInfo z: the bytes of the spans.
func (p *Prefetch) Profile(z *ztoc.ZInfo) *Profile {
	var ranges []ztoc.Range
	for _, r := range p.Within(len(z.Spans)) {
		off := z.Spans[r.Start].Out.Off
		ranges = append(ranges, ztoc.Range{Off: off, Len: z.Spans[r.End-1].Out.End() - off})
	}
	return NewProfile(z.UncompressedSize, ranges)
}

// SPDX-License-Identifier: Apache-2.0

package index

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/ztoc"
)

// MaxPrefetchSize bounds a prefetch artifact, in bytes.
const MaxPrefetchSize = 1 << 20

const (
	docPrefetch     = "prefetch artifact"
	prefetchVersion = "1.0"
)

// SpanRange is the half-open range [Start, End) of span ids.
type SpanRange struct {
	Start, End int
	Priority   int // not used by anyone; kept
}

// Prefetch lists the spans of a layer that are wanted before others.
type Prefetch struct {
	Spans []SpanRange
}

// prefetchDoc is a prefetch artifact on the wire, where ranges are inclusive.
type prefetchDoc struct {
	Version string          `json:"version"`
	Spans   []prefetchRange `json:"prefetch_spans"`
}

type prefetchRange struct {
	Start    int32 `json:"start_span"`
	End      int32 `json:"end_span"`
	Priority int32 `json:"priority,omitempty"`
}

// Marshal encodes p as the incumbent does. The descriptor has no annotations yet.
func (p *Prefetch) Marshal() ([]byte, ocispec.Descriptor, error) {
	d := prefetchDoc{Version: prefetchVersion, Spans: []prefetchRange{}}
	for _, r := range p.Spans {
		if r.Start < 0 || r.End <= r.Start || r.End > math.MaxInt32 || int(int32(r.Priority)) != r.Priority {
			return nil, ocispec.Descriptor{}, fmt.Errorf("marshal prefetch artifact: spans [%d, %d), priority %d", r.Start, r.End, r.Priority)
		}
		d.Spans = append(d.Spans, prefetchRange{int32(r.Start), int32(r.End - 1), int32(r.Priority)})
	}
	b, err := json.Marshal(d)
	if err != nil {
		return nil, ocispec.Descriptor{}, fmt.Errorf("marshal prefetch artifact: %w", err)
	}
	if len(b) > MaxPrefetchSize {
		return nil, ocispec.Descriptor{}, fmt.Errorf("marshal prefetch artifact: %d bytes, more than %d", len(b), MaxPrefetchSize)
	}
	return b, ocispec.Descriptor{MediaType: MediaTypePrefetch, Digest: digest.FromBytes(b), Size: int64(len(b))}, nil
}

// UnmarshalPrefetch decodes and validates a prefetch artifact. Errors match ErrFormat.
// The ranges are as they come; [Prefetch.Within] makes them fit for use.
func UnmarshalPrefetch(b []byte) (*Prefetch, error) {
	if len(b) > MaxPrefetchSize {
		return nil, malformed(docPrefetch, "%d bytes, more than %d", len(b), MaxPrefetchSize)
	}
	var d prefetchDoc
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, malformed(docPrefetch, "%v", err)
	}
	if d.Version != prefetchVersion {
		return nil, malformed(docPrefetch, "version %.100q", d.Version)
	}
	p := &Prefetch{Spans: make([]SpanRange, 0, len(d.Spans))}
	for i, r := range d.Spans {
		if r.Start < 0 || r.End < r.Start || r.End == math.MaxInt32 {
			return nil, malformed(docPrefetch, "range %d: spans %d to %d", i, r.Start, r.End)
		}
		p.Spans = append(p.Spans, SpanRange{int(r.Start), int(r.End) + 1, int(r.Priority)})
	}
	return p, nil
}

// Within returns p's ranges within a layer of n spans: sorted, disjoint and not
// adjacent, without priorities. They cover at most n spans, whatever p says.
func (p *Prefetch) Within(n int) []SpanRange {
	var in []SpanRange
	for _, r := range p.Spans {
		if r.Start = max(r.Start, 0); r.Start < min(r.End, n) {
			in = append(in, SpanRange{Start: r.Start, End: min(r.End, n)})
		}
	}
	return mergeSpans(in)
}

// mergeSpans sorts ranges, without priorities, and joins those that overlap or touch.
func mergeSpans(in []SpanRange) []SpanRange {
	slices.SortFunc(in, func(a, b SpanRange) int { return cmp.Compare(a.Start, b.Start) })
	var out []SpanRange
	for _, r := range in {
		if k := len(out) - 1; k >= 0 && r.Start <= out[k].End {
			out[k].End = max(out[k].End, r.End)
			continue
		}
		out = append(out, r)
	}
	return out
}

// PrefetchResult says that a prefetch artifact was made, or that a file was not found.
type PrefetchResult struct {
	Layer    ocispec.Descriptor
	Artifact ocispec.Descriptor
	Missing  string // the path, cleaned; "" if an artifact was made
}

// String is a line for the result, the incumbent's if an artifact was made.
func (r PrefetchResult) String() string {
	if r.Missing != "" {
		return fmt.Sprintf("prefetch file %q is not a file of any layer with a ztoc", r.Missing)
	}
	return fmt.Sprintf("Created prefetch artifact for layer %s: %s", r.Layer.Digest, r.Artifact.Digest)
}

// prefetch queues the prefetch artifacts, in layer order, and returns their descriptors.
func (b *builder) prefetch() ([]ocispec.Descriptor, error) {
	tell := func(r PrefetchResult) {
		if b.opts.OnPrefetch != nil {
			b.opts.OnPrefetch(r)
		}
	}
	wanted := make([][]SpanRange, len(b.jobs))
	for _, p := range b.opts.Prefetch {
		// The topmost layer that has the file hides the others.
		i := len(b.jobs) - 1
		for ; i >= 0; i-- {
			if r, ok := b.jobs[i].spans[p]; ok {
				wanted[i] = append(wanted[i], r)
				break
			}
		}
		if i < 0 {
			tell(PrefetchResult{Missing: p})
		}
	}
	var artifacts []ocispec.Descriptor
	for i, spans := range wanted {
		if len(spans) == 0 {
			continue
		}
		p := &Prefetch{Spans: mergeSpans(spans)}
		content, desc, err := p.Marshal()
		if err != nil {
			return nil, err
		}
		layer := b.jobs[i].layer
		desc.Annotations = map[string]string{AnnotationLayerDigest: layer.Digest.String()}
		artifacts = append(artifacts, desc)
		b.queue.addBytes(desc, content)
		tell(PrefetchResult{Layer: layer, Artifact: desc})
	}
	return artifacts, nil
}

// spansOf returns the spans of an entry's data. The format takes the end span from the offset
// behind the data, so that there may be one span more than needed.
func spansOf(f files, e *ztoc.Entry) SpanRange {
	at := func(off int64) int {
		id, _ := f.SpansOf(ztoc.Range{Off: min(off, f.UncompressedSize()-1)})
		return id
	}
	return SpanRange{Start: at(e.Offset), End: at(e.Offset+e.Size) + 1}
}

func cleanPath(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }

// cleanPaths cleans paths and drops empty and repeated ones.
func cleanPaths(paths []string) []string {
	var out []string
	seen := make(map[string]bool)
	for _, p := range paths {
		if p = cleanPath(p); p != "" && !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	return out
}

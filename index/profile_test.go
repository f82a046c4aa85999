// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/ztoc"
)

// ranges makes ranges of pairs of offset and length.
func ranges(pairs ...int64) (out []ztoc.Range) {
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, ztoc.Range{Off: pairs[i], Len: pairs[i+1]})
	}
	return out
}

func TestNewProfile(t *testing.T) {
	for _, c := range []struct {
		name     string
		in, want []ztoc.Range
	}{
		{"nothing", nil, nil},
		{"in order", ranges(50, 10, 0, 10), ranges(50, 10, 0, 10)},
		{"adjacent", ranges(0, 10, 10, 10), ranges(0, 20)},
		{"adjacent, backwards", ranges(10, 10, 0, 10), ranges(10, 10, 0, 10)},
		{"again", ranges(5, 10, 5, 10, 7, 2), ranges(5, 10)},
		{"around", ranges(50, 10, 40, 30), ranges(50, 10, 40, 10, 60, 10)},
		{"over several", ranges(10, 10, 30, 10, 50, 10, 0, 100), ranges(10, 10, 30, 10, 50, 10, 0, 10, 20, 10, 40, 10, 60, 40)},
		{"between", ranges(0, 10, 20, 10, 10, 10, 0, 40), ranges(0, 10, 20, 10, 10, 10, 30, 10)},
		{"beyond the end", ranges(90, 20, 100, 5, 200, 1), ranges(90, 10)},
		{"before the start", ranges(-5, 10), ranges(0, 5)},
		{"empty, or worse", ranges(5, 0, 5, -1), nil},
		{"no such end", ranges(math.MaxInt64-5, 10, 7, math.MaxInt64), ranges(7, 93)},
	} {
		p := index.NewProfile(100, c.in)
		if !slices.Equal(p.Ranges, c.want) {
			t.Errorf("%s: %v, want %v", c.name, p.Ranges, c.want)
			continue
		}
		b, desc, err := p.Marshal()
		if err != nil || desc.MediaType != index.MediaTypeProfile || desc.Size != int64(len(b)) {
			t.Errorf("%s: marshal: %+v, %v", c.name, desc, err)
			continue
		}
		if q := must(index.UnmarshalProfile(b))(t); q.Size != 100 || !slices.Equal(q.Ranges, p.Ranges) {
			t.Errorf("%s: read back: %+v", c.name, q)
		}
	}
}

// TestNewProfileBound holds that a profile can always be written.
func TestNewProfileBound(t *testing.T) {
	var many []ztoc.Range
	const size = int64(1) << 40
	for i := range int64(index.MaxProfileRanges + 10) {
		many = append(many, ztoc.Range{Off: size - 3*(i+1), Len: 2})
	}
	p := index.NewProfile(size, many)
	if len(p.Ranges) != index.MaxProfileRanges {
		t.Errorf("%d ranges", len(p.Ranges))
	}
	if _, _, err := p.Marshal(); err != nil {
		t.Error(err)
	}
}

func TestProfileWire(t *testing.T) {
	p := &index.Profile{Size: 100, Ranges: ranges(50, 10, 0, 1)}
	const want = `{"version":1,"size":100,"ranges":[[50,10],[0,1]]}`
	if b, _, err := p.Marshal(); err != nil || string(b) != want {
		t.Errorf("%s, %v", b, err)
	}
	if n := p.Len(); n != 11 {
		t.Errorf("%d bytes", n)
	}
	for _, bad := range [][]ztoc.Range{ranges(0, 0), ranges(-1, 2), ranges(99, 2), ranges(0, 5, 4, 1)} {
		if b, _, err := (&index.Profile{Size: 100, Ranges: bad}).Marshal(); err == nil {
			t.Errorf("%v: %s", bad, b)
		}
	}
	for name, p := range map[string]string{
		"empty":       "",
		"version":     `{"version":2,"size":1,"ranges":[]}`,
		"no version":  `{"size":1}`,
		"size":        `{"version":1,"size":-1}`,
		"negative":    `{"version":1,"size":9,"ranges":[[-1,2]]}`,
		"empty range": `{"version":1,"size":9,"ranges":[[1,0]]}`,
		"too far":     `{"version":1,"size":9,"ranges":[[1,9]]}`,
		"wraps":       `{"version":1,"size":9,"ranges":[[9223372036854775807,1]]}`,
		"wraps too":   `{"version":1,"size":9,"ranges":[[1,9223372036854775807]]}`,
		"twice":       `{"version":1,"size":9,"ranges":[[4,2],[0,2],[5,1]]}`,
		"too many":    `{"version":1,"size":99999,"ranges":[` + strings.TrimSuffix(strings.Repeat("[1,1],", index.MaxProfileRanges+1), ",") + `]}`,
		"too large":   `{"version":1,"size":1}` + strings.Repeat(" ", index.MaxProfileSize),
	} {
		if q, err := index.UnmarshalProfile([]byte(p)); !errors.Is(err, index.ErrFormat) {
			t.Errorf("%s: %v, %v", name, q, err)
		}
	}
}

// TestProfilePrefetch holds how profiles and spans go together.
func TestProfilePrefetch(t *testing.T) {
	z := &ztoc.ZInfo{UncompressedSize: 95, Spans: make([]ztoc.Span, 10)}
	for i := range z.Spans {
		z.Spans[i].Out = ztoc.Range{Off: int64(i) * 10, Len: 10}
	}
	p := index.NewProfile(95, ranges(72, 5, 19, 2, 30, 1))
	f := p.Prefetch(z)
	if want := []index.SpanRange{{Start: 1, End: 4}, {Start: 7, End: 8}}; !slices.Equal(f.Spans, want) {
		t.Errorf("spans %v, want %v", f.Spans, want)
	}
	if got, want := f.Profile(z).Ranges, ranges(10, 30, 70, 10); !slices.Equal(got, want) {
		t.Errorf("ranges %v, want %v", got, want)
	}
	evil := &index.Prefetch{Spans: []index.SpanRange{{Start: 9, End: math.MaxInt32}, {Start: -5, End: 1}}}
	if got, want := evil.Profile(z).Ranges, ranges(0, 10, 90, 5); !slices.Equal(got, want) {
		t.Errorf("ranges %v, want %v", got, want)
	}
}

func FuzzProfile(f *testing.F) {
	f.Add([]byte(`{"version":1,"size":100,"ranges":[[50,10],[0,1]]}`))
	f.Add([]byte(`{"version":1,"size":9,"ranges":[[4,2],[0,2],[5,1]]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := index.UnmarshalProfile(b)
		if err != nil {
			if !errors.Is(err, index.ErrFormat) {
				t.Fatalf("error does not match ErrFormat: %v", err)
			}
			return
		}
		q := index.NewProfile(p.Size, p.Ranges)
		if p.Len() != q.Len() || p.Len() > p.Size || len(q.Ranges) > len(p.Ranges) {
			t.Fatalf("%+v, made anew %+v", p, q)
		}
	})
}

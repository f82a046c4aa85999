// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/seekoci/seekoci/index"
)

func TestPrefetchMarshal(t *testing.T) {
	p := &index.Prefetch{Spans: []index.SpanRange{{Start: 0, End: 1}, {Start: 3, End: 6, Priority: 2}}}
	const want = `{"version":"1.0","prefetch_spans":[{"start_span":0,"end_span":0},{"start_span":3,"end_span":5,"priority":2}]}`
	got, desc, err := p.Marshal()
	if err != nil || string(got) != want || desc.MediaType != index.MediaTypePrefetch || desc.Size != int64(len(want)) {
		t.Fatalf("%s, %v, %v", got, desc, err)
	}
	q := must(index.UnmarshalPrefetch(got))(t)
	if !slices.Equal(p.Spans, q.Spans) {
		t.Errorf("read back: %v", q.Spans)
	}
	for _, r := range []index.SpanRange{{Start: -1, End: 1}, {Start: 2, End: 2}, {Start: 0, End: 1 << 31}, {End: 1, Priority: 1 << 40}} {
		if b, _, err := (&index.Prefetch{Spans: []index.SpanRange{r}}).Marshal(); err == nil {
			t.Errorf("%v: %s", r, b)
		}
	}
}

func TestPrefetchRefuses(t *testing.T) {
	for name, p := range map[string]string{
		"empty":         "",
		"no version":    `{"prefetch_spans":[]}`,
		"version":       `{"version":"1.1","prefetch_spans":[]}`,
		"negative":      `{"version":"1.0","prefetch_spans":[{"start_span":-1,"end_span":0}]}`,
		"backwards":     `{"version":"1.0","prefetch_spans":[{"start_span":2,"end_span":1}]}`,
		"wraps":         `{"version":"1.0","prefetch_spans":[{"start_span":0,"end_span":2147483647}]}`,
		"no int32":      `{"version":"1.0","prefetch_spans":[{"start_span":0,"end_span":2147483648}]}`,
		"fraction":      `{"version":"1.0","prefetch_spans":[{"start_span":0.5,"end_span":1}]}`,
		"too large":     `{"version":"1.0","prefetch_spans":[]}` + strings.Repeat(" ", index.MaxPrefetchSize),
		"trailing":      `{"version":"1.0"}{}`,
		"array, no map": `[]`,
	} {
		if q, err := index.UnmarshalPrefetch([]byte(p)); !errors.Is(err, index.ErrFormat) {
			t.Errorf("%s: %v, %v", name, q, err)
		}
	}
	if q := must(index.UnmarshalPrefetch([]byte(`{"version":"1.0"}`)))(t); len(q.Spans) != 0 {
		t.Errorf("no spans: %v", q.Spans)
	}
}

func TestPrefetchWithin(t *testing.T) {
	r := func(se ...int) (out []index.SpanRange) {
		for i := 0; i < len(se); i += 2 {
			out = append(out, index.SpanRange{Start: se[i], End: se[i+1]})
		}
		return out
	}
	for _, c := range []struct {
		in   []index.SpanRange
		n    int
		want []index.SpanRange
	}{
		{nil, 5, nil},
		{r(0, 1), 0, nil},
		{r(0, 1<<31-1), 3, r(0, 3)},
		{r(3, 4), 3, nil},
		{r(2, 3, 0, 1), 9, r(0, 1, 2, 3)},
		{r(0, 2, 2, 3), 9, r(0, 3)},
		{r(0, 5, 1, 2, 4, 6), 9, r(0, 6)},
		{r(-4, 2), 9, r(0, 2)},
		{r(5, 2), 9, nil},
	} {
		if got := (&index.Prefetch{Spans: c.in}).Within(c.n); !slices.Equal(got, c.want) {
			t.Errorf("%v within %d: %v, want %v", c.in, c.n, got, c.want)
		}
	}
}

func FuzzPrefetch(f *testing.F) {
	f.Add([]byte(`{"version":"1.0","prefetch_spans":[{"start_span":0,"end_span":3},{"start_span":2,"end_span":2147483646,"priority":1}]}`), 7)
	f.Add([]byte(`{"version":"1.0","prefetch_spans":[{"start_span":-1,"end_span":2147483647}]}`), 0)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		p, err := index.UnmarshalPrefetch(b)
		if err != nil {
			if !errors.Is(err, index.ErrFormat) {
				t.Fatalf("error does not match ErrFormat: %v", err)
			}
			return
		}
		last := -1
		for _, r := range p.Within(n) {
			if r.Start <= last || r.End <= r.Start || r.End > n {
				t.Fatalf("%v within %d", r, n)
			}
			last = r.End
		}
	})
}

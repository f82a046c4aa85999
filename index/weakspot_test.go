// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/index/indextest"
)

// The weak spots of the incumbent that concern indexes, by number.

// bounded runs f, which is to take less than so many bytes of memory, and no time to speak of.
func bounded(t *testing.T, memory uint64, f func()) {
	t.Helper()
	const most = 20 * time.Second // it is milliseconds; a busy machine is no fault
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	f()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > memory {
		t.Errorf("%d bytes of memory, more than %d", n, memory)
	}
	if d := time.Since(start); d > most {
		t.Errorf("it took %v", d)
	}
}

// TestWeakSpotS4 has prefetch artifacts with ranges that nothing bounds.
func TestWeakSpotS4(t *testing.T) {
	artifact := func(ranges string) []byte {
		return fmt.Appendf(nil, `{"version":"1.0","prefetch_spans":[%s]}`, ranges)
	}
	for name, p := range map[string][]byte{
		"end that overflows":   artifact(`{"start_span":0,"end_span":2147483647}`),
		"beyond 32 bits":       artifact(`{"start_span":0,"end_span":4294967296}`),
		"negative start":       artifact(`{"start_span":-1,"end_span":1}`),
		"negative end":         artifact(`{"start_span":0,"end_span":-2147483648}`),
		"end before start":     artifact(`{"start_span":2,"end_span":1}`),
		"not a number":         artifact(`{"start_span":"0","end_span":1}`),
		"fraction":             artifact(`{"start_span":0.5,"end_span":1}`),
		"one bad among others": artifact(`{"start_span":0,"end_span":1},{"start_span":5,"end_span":4}`),
	} {
		bounded(t, 1<<20, func() {
			if _, err := index.UnmarshalPrefetch(p); !errors.Is(err, index.ErrFormat) {
				t.Errorf("%s: error %v", name, err)
			}
		})
	}
	const widest = math.MaxInt32 - 1
	for name, p := range map[string][]byte{
		"all there could be": artifact(fmt.Sprintf(`{"start_span":0,"end_span":%d}`, widest)),
		"far behind":         artifact(fmt.Sprintf(`{"start_span":%d,"end_span":%d}`, widest, widest)),
		"over and over":      artifact(strings.TrimSuffix(strings.Repeat(fmt.Sprintf(`{"start_span":0,"end_span":%d},`, widest), 20_000), ",")),
	} {
		bounded(t, 64<<20, func() {
			f, err := index.UnmarshalPrefetch(p)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			n := 0
			for _, r := range f.Within(100) {
				if r.Start < 0 || r.End > 100 || r.Start >= r.End {
					t.Errorf("%s: range %+v", name, r)
				}
				n += r.End - r.Start
			}
			if n > 100 {
				t.Errorf("%s: %d spans of 100", name, n)
			}
		})
	}
}

// endless is content without an end.
type endless struct{ indextest.Store }

func (e *endless) wrap(ocispec.Descriptor, io.ReadCloser) io.ReadCloser { return io.NopCloser(zeros{}) }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestWeakSpotS5 has indexes and artifacts that are larger than anybody needs, or say that they are.
func TestWeakSpotS5(t *testing.T) {
	s := new(endless)
	s.WrapReader = s.wrap
	small := s.Add(ocispec.MediaTypeImageManifest, []byte("x"))
	unknown, huge := small, small
	unknown.Size, huge.Size = 0, math.MaxInt64
	for name, desc := range map[string]ocispec.Descriptor{"of a byte": small, "of any size": unknown, "of 8 EiB": huge} {
		bounded(t, 32<<20, func() {
			if _, err := index.ReadAll(t.Context(), s, desc, index.MaxSize); !errors.Is(err, index.ErrDigest) && !errors.Is(err, index.ErrSize) {
				t.Errorf("content without an end, said to be %s: %v", name, err)
			}
		})
	}
	layer := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":9,"annotations":{%q:%q}}`, index.MediaTypeZTOC, dgstA, index.AnnotationLayerDigest, dgstA)
	head := fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[`, index.MediaTypeV2, emptyDigest)
	for name, p := range map[string]string{
		"many layers":       head + strings.TrimSuffix(strings.Repeat(layer+",", index.MaxLayers+1), ",") + "]}",
		"many empty layers": head + strings.TrimSuffix(strings.Repeat("{},", 1<<20), ",") + "]}",
		"deep":              head + strings.Repeat("[", 1<<20),
		"too long":          head + strings.Repeat(" ", index.MaxSize) + "]}",
		"a zTOC of a profile's size": head + strings.ReplaceAll(strings.ReplaceAll(layer, index.MediaTypeZTOC, index.MediaTypeProfile), `"size":9`,
			fmt.Sprintf(`"size":%d`, index.MaxProfileSize+1)) + "]}",
		"negative size": head + strings.ReplaceAll(layer, `"size":9`, `"size":-9`) + "]}",
	} {
		bounded(t, 64<<20, func() {
			if _, err := index.Unmarshal([]byte(p)); !errors.Is(err, index.ErrFormat) {
				t.Errorf("%s: error %v", name, err)
			}
		})
	}
}

// TestWeakSpotS6 holds that, on demand, nobody but whoever makes the image's manifest says what its index is.
func TestWeakSpotS6(t *testing.T) {
	s := new(indextest.Store)
	manifest := manifestWith(s, "")
	attached := put(t, s, bound(manifest, "by somebody who may push"))
	if _, desc, err := index.Find(t.Context(), s, manifest.Digest, index.FindOptions{V1: true, V2: true}); err != nil || desc.Digest != attached.Digest {
		t.Fatalf("found %v, %v", desc, err)
	}
	for _, opts := range []index.FindOptions{
		{V1: true, Bound: true}, {V1: true, V2: true, Bound: true}, {Digest: attached.Digest, V1: true, V2: true, Bound: true},
	} {
		if x, _, err := index.Find(t.Context(), s, manifest.Digest, opts); x != nil || !errors.Is(err, index.ErrUnbound) {
			t.Errorf("%+v: %v", opts, err)
		}
	}
}

// TestWeakSpotS7 has a store whose content is not what it was: nothing is taken for right because it is local.
func TestWeakSpotS7(t *testing.T) {
	s := new(indextest.Store)
	p, _, err := sample(index.V2).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	desc := s.Add(ocispec.MediaTypeImageManifest, p)
	manifest := manifestWith(s, named(desc.Digest))
	ztoc := s.Add(index.MediaTypeZTOC, []byte("a zTOC"))
	for name, change := range map[string][]byte{
		"a bit":     append([]byte{p[0] ^ 1}, p[1:]...),
		"cut short": p[:len(p)-1],
		"longer":    append(p[:len(p):len(p)], ' '),
		"empty":     {},
		"another index": func() []byte {
			x := sample(index.V2)
			x.BuildTool = "mallory"
			other, _, err := x.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			return other
		}(),
	} {
		s.Replace(desc.Digest, change)
		s.Replace(ztoc.Digest, change)
		if x, _, err := index.Read(t.Context(), s, desc); x != nil || !errors.Is(err, index.ErrDigest) {
			t.Errorf("%s: read %v", name, err)
		}
		if x, _, err := index.Find(t.Context(), s, manifest.Digest, index.FindOptions{V2: true}); x != nil || !errors.Is(err, index.ErrDigest) {
			t.Errorf("%s: found %v", name, err)
		}
		if z, err := index.ReadZTOC(t.Context(), s, ztoc); z != nil || !errors.Is(err, index.ErrDigest) {
			t.Errorf("%s: zTOC %v", name, err)
		}
	}
	s.Replace(manifest.Digest, s.Bytes(desc.Digest))
	if _, _, err := index.Find(t.Context(), s, manifest.Digest, index.FindOptions{V2: true}); !errors.Is(err, index.ErrDigest) {
		t.Errorf("another manifest: %v", err)
	}
	if x, err := index.Unmarshal(p); err != nil || digest.FromBytes(p) != desc.Digest || x.Version != index.V2 {
		t.Errorf("as it was: %v", err)
	}
}

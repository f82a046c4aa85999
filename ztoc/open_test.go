// SPDX-License-Identifier: Apache-2.0

package ztoc_test

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestOpen holds that a Reader says the same of a layer whichever format it reads.
func TestOpen(t *testing.T) {
	layer, archive, p, q := checkLayer(t, ztoc.Gzip)
	z, c := mustOpen(t, p), mustOpen(t, q)
	if z.Format() != ztoc.Format09 || z.Version() != "0.9" || z.LayerDigest() != "" || z.DiffID() != "" {
		t.Errorf("0.9: %s, %s, %s, %s", z.Format(), z.Version(), z.LayerDigest(), z.DiffID())
	}
	if c.Format() != ztoc.FormatCompact || c.Version() != "v1" || c.LayerDigest() != digest.FromBytes(layer) || c.DiffID() != digest.FromBytes(archive) {
		t.Errorf("compact: %s, %s, %s, %s", c.Format(), c.Version(), c.LayerDigest(), c.DiffID())
	}
	if z.BuildTool() != c.BuildTool() || z.Len() != c.Len() || z.Len() < 10 {
		t.Errorf("%s, %d entries; %s, %d entries", z.BuildTool(), z.Len(), c.BuildTool(), c.Len())
	}
	var want []string
	for _, e := range z.Entries() {
		want = append(want, fmt.Sprint(e))
		for _, name := range []string{e.Name, "/" + e.Name, "./x/.././" + e.Name} {
			for _, r := range []*ztoc.Reader{z, c} {
				if got, ok := r.Lookup(name); !ok || fmt.Sprint(got) != fmt.Sprint(e) {
					t.Errorf("%s: %q is %v, %t; want %v", r.Format(), name, got, ok, e)
				}
			}
		}
	}
	for i, e := range c.Entries() {
		if i >= len(want) || fmt.Sprint(e) != want[i] {
			t.Errorf("compact: entry %d is %v", i, e)
		}
	}
	for _, r := range []*ztoc.Reader{z, c} {
		if e, ok := r.Lookup("no/such"); ok {
			t.Errorf("%s: no/such is %v", r.Format(), e)
		}
	}
	for _, bad := range [][]byte{nil, []byte("x"), p[:len(p)/2], q[:len(q)/2], q[:20]} {
		if r, err := ztoc.Open(bad); !errors.Is(err, ztoc.ErrFormat) || r != nil {
			t.Errorf("%d bytes: %v, %v", len(bad), r, err)
		}
	}
}

// TestOpenZInfo holds that spans are decoded without the file table in memory.
func TestOpenZInfo(t *testing.T) {
	archive := mustTar(t, ztoctest.Files(1, 3_000), ztoctest.TarOptions{})
	s := mustSurvey(t, bytes.NewReader(archive), ztoc.SurveyOptions{CompactSpanSize: ztoc.DefaultCompactSpanSize})
	var p bytes.Buffer
	if err := s.WriteCompact(&p); err != nil {
		t.Fatal(err)
	}
	inUse := func() int64 {
		runtime.GC()
		runtime.GC() // what was in pools
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	r := mustOpen(t, p.Bytes())
	zi := r.ZInfo()
	with := inUse()
	runtime.KeepAlive(r)
	without := inUse()
	if len(zi.Spans) < 10 || with-without < 40<<10 {
		t.Errorf("%d spans, %d bytes of memory, %d without the Reader", len(zi.Spans), with, without)
	}
	runtime.KeepAlive(p)
}

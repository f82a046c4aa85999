// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seekoci/seekoci/benchmark/internal/image"
	"github.com/seekoci/seekoci/benchmark/internal/stat"
	"github.com/seekoci/seekoci/ztoc"
)

func TestChoose(t *testing.T) {
	all, err := choose("")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range sections {
		if !all[name] {
			t.Errorf("by default %s is not run", name)
		}
	}
	some, err := choose("read,many")
	if err != nil || !some["read"] || !some.any("start", "many") || some.any("start", "warm") {
		t.Errorf("%v, %v", some, err)
	}
	if _, err := choose("read,all"); err == nil || !strings.Contains(err.Error(), `"all"`) {
		t.Errorf("error %v", err)
	}
}

// TestBound checks the arithmetic: what is slower counts, fetching or inflating.
func TestBound(t *testing.T) {
	touched := pages{compressed: 50e6, uncompressed: 200e6}
	for _, tt := range []struct {
		name  string
		net   network
		rate  float64
		cores int
		want  float64
	}{
		{"the network is slower", network{0.010, 100e6}, 1e9, 2, 1.5 + trips*0.010 + 0.5},
		{"inflating is slower", network{0.0001, 10e9}, 500e6, 2, 1.5 + 0.2},
		{"on more processors", network{0.0001, 10e9}, 500e6, 4, 1.5 + 0.1},
	} {
		if got := bound(1.5, touched, tt.net, tt.rate, tt.cores); math.Abs(got-tt.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestBounds: each round has its own bound, as far as there is everything for it.
func TestBounds(t *testing.T) {
	b := bounds{touched: pages{compressed: 1e6}, rate: stat.Series{1e9, 1e9, 1e9}}
	s := speeds{rtt: stat.Series{0, 0, 0}, bandwidth: stat.Series{1e6, 2e6, 4e6}}
	if got, want := b.of(s, stat.Series{1, 2}), (stat.Series{2, 2.5}); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", []float64(got), []float64(want))
	}
}

// zinfo is a layer of so many spans, each of 100 bytes that are compressed to size.
func zinfo(spans int, size int64) *ztoc.ZInfo {
	z := &ztoc.ZInfo{CompressedSize: int64(spans) * size, UncompressedSize: int64(spans) * 100}
	for i := range int64(spans) {
		z.Spans = append(z.Spans, ztoc.Span{In: ztoc.Range{Off: i * size, Len: size}, Out: ztoc.Range{Off: i * 100, Len: 100}})
	}
	return z
}

// TestTouch: a page is as many compressed bytes as its share of its spans, and counts once.
func TestTouch(t *testing.T) {
	c := &content{compact: []*ztoc.ZInfo{zinfo(100, 50), zinfo(200, 10)}}
	var p pages
	c.touch(&p, place{0, 0, 10_000}, 0)
	c.touch(&p, place{0, 0, 10_000}, 0) // by another name
	if p.uncompressed != pageSize || math.Abs(p.compressed-pageSize/2) > 1e-6 {
		t.Errorf("one page: %v, %v bytes compressed", p.uncompressed, p.compressed)
	}
	c.touch(&p, place{1, 50, pageSize + 10}, pageSize) // the file's last ten bytes
	c.touch(&p, place{1, 50, pageSize}, pageSize)      // behind the end
	if p.uncompressed != pageSize+10 || math.Abs(p.compressed-pageSize/2-1) > 1e-6 {
		t.Errorf("and ten bytes: %v, %v bytes compressed", p.uncompressed, p.compressed)
	}
}

// TestSpots: they are whole pages within their files, at their places, and always the same.
func TestSpots(t *testing.T) {
	c := &content{files: map[string]place{
		"/empty": {0, 0, 0}, "/small": {0, 512, 4095}, "/page": {0, 8192, 4096}, "/large": {1, 1024, 1 << 20},
	}}
	spots, err := c.spots(500)
	if err != nil {
		t.Fatal(err)
	}
	count := make(map[string]int)
	for _, s := range spots {
		f := c.files[s.file]
		if s.off%pageSize != 0 || s.off+pageSize > f.size || s.at != (place{f.layer, f.off + s.off, pageSize}) {
			t.Fatalf("spot %+v of file %+v", s, f)
		}
		count[s.file]++
	}
	if count["/large"] < 450 || len(count) > 2 {
		t.Errorf("pages by file: %v", count)
	}
	again, err := c.spots(500)
	if err != nil || !slices.Equal(spots, again) {
		t.Errorf("other spots at another time (%v)", err)
	}
	if _, err := (&content{}).spots(1); err == nil {
		t.Error("an image without files has a page")
	}
	if name, p := c.largest(); name != "/large" || p != c.files["/large"] {
		t.Errorf("the largest file is %s, %+v", name, p)
	}
}

// TestTree: sums tell trees apart that differ in a byte, a name or a mode, and only those.
func TestTree(t *testing.T) {
	write := func(dir, name, text string, mode os.FileMode) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	sumsOf := func(dir string) (bytes, names string) {
		t.Helper()
		for _, path := range []string{"a/one", "two", "a"} {
			// All of the same time, so that it does not tell them apart.
			if err := os.Chtimes(filepath.Join(dir, path), madeAt(), madeAt()); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
		bytes, err := readTree(dir)
		if err != nil {
			t.Fatal(err)
		}
		if names, err = listTree(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		return bytes, names
	}
	first := t.TempDir()
	write(first, "a/one", "1", 0o644)
	write(first, "two", "2", 0o644)
	bytes, names := sumsOf(first)
	if !strings.HasPrefix(bytes, "2 files, 2 bytes, ") || !strings.HasPrefix(names, "3 names, ") {
		t.Errorf("sums %q and %q", bytes, names)
	}
	for _, tt := range []struct {
		name       string
		text       string
		mode       os.FileMode
		sameBytes  bool
		sameListed bool
	}{
		{"equal", "2", 0o644, true, true},
		{"another byte", "3", 0o644, false, true},
		{"another mode", "2", 0o600, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write(dir, "a/one", "1", 0o644)
			write(dir, "two", tt.text, tt.mode)
			b, n := sumsOf(dir)
			if (b == bytes) != tt.sameBytes || (n == names) != tt.sameListed {
				t.Errorf("sums %q and %q, those of the first tree are %q and %q", b, n, bytes, names)
			}
		})
	}
}

func TestSame(t *testing.T) {
	var first string
	for _, sum := range []string{"a", "a"} {
		if err := same("letters", &first, sum); err != nil {
			t.Error(err)
		}
	}
	if err := same("letters", &first, "b"); err == nil {
		t.Error("a is b")
	}
}

// TestInCache: pages that were just written are there, and there is one byte for each.
func TestInCache(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 2*pageSize+1), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "empty"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	in, err := inCache(root, "/file")
	if err != nil || len(in) != 3 || in[0]&in[1]&in[2]&1 != 1 {
		t.Errorf("%v, %v", in, err)
	}
	if in, err := inCache(root, "/empty"); err != nil || len(in) != 0 {
		t.Errorf("an empty file: %v, %v", in, err)
	}
	if _, err := inCache(root, "/none"); !os.IsNotExist(err) {
		t.Errorf("no file: %v", err)
	}
}

// TestReport: only what was measured is in the table of goals, by the right rounds.
func TestReport(t *testing.T) {
	b := bench{rounds: 2, layers: layers{"/x/base.tar.gz"}, args: []string{"true"}, image: &image.Image{}}
	b.legs.overlayfs = leg{name: "overlayfs", pull: stat.Series{8, 16}, first: stat.Series{2, 4}, ready: stat.Series{10, 20}, second: stat.Series{1, 2}}
	b.legs.compact = leg{name: "lazy, compact", ready: stat.Series{2, 5}, first: stat.Series{1, 2}, second: stat.Series{1, 2}, layers: stat.Series{3, 3}}
	b.legs.quiet = leg{name: "quiet", ready: stat.Series{2, 4}, layers: stat.Series{4, 4}}
	b.bound = bounds{touched: pages{compressed: 1e6, uncompressed: 2e6}, rate: stat.Series{1e9, 1e9}, fromDisk: []pages{{compressed: 2e6}, {compressed: 4e6}}}
	b.bound.loopback = speeds{rtt: stat.Series{0, 0}, bandwidth: stat.Series{1e6, 1e6}}
	b.together = stat.Series{5, 10}
	got := make(map[string]stat.Series)
	for _, g := range b.goals() {
		got[g.What+" "+g.Of] = g.Got
	}
	for what, want := range map[string]stat.Series{
		"pull + first run: overlayfs, full pull / lazy compact":                       {5, 4},
		"pull + first run / lower bound compact":                                      {1, 5. / 3},
		"bytes fetched / compressed bytes of the pages read on overlayfs compact":     {2, 1},
		"bytes fetched / compressed bytes of the pages touched, no readahead compact": {4, 4},
		"10 containers started cold together / 10 times one compact":                  {0.5, 0.5},
		"pull + first run / lower bound, 1 Gbit/s and 5 ms compact":                   nil,
		"resident memory of the daemon after the first run, MiB compact":              nil,
		"cold random 4 KiB, time: 4 MiB span fetched, by klauspost / ours compact":    nil,
	} {
		if !slices.EqualFunc(got[what], want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }) {
			t.Errorf("%s: %v, want %v", what, []float64(got[what]), []float64(want))
		}
	}
	var s strings.Builder
	if err := b.print(&s); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"-layer base.tar.gz true\n", "what it must reach", "\noverlayfs ", "15.00 (10.00-20.00)", "touched by the first run: 2.0 MB", "10 containers started cold together: 7.50"} {
		if !strings.Contains(s.String(), want) {
			t.Errorf("the report has no %q:\n%s", want, s.String())
		}
	}
	if unmeasured := "all layers local"; strings.Contains(s.String(), unmeasured) {
		t.Errorf("the report has %q, which was not measured:\n%s", unmeasured, s.String())
	}
}

// madeAt is the time of the files of the tests.
func madeAt() time.Time { return time.Unix(1700000000, 0) }

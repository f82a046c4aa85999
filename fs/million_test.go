// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

const (
	crowded   = 120_000 // files of one directory
	maxMemory = 120     // bytes of a tree for each of its files, names and all
)

// millionTOC returns n files: so many in one directory, and the others by hundreds, eight deep.
func millionTOC(n int) []ztoc.Entry {
	toc := make([]ztoc.Entry, 0, n)
	for i := range crowded {
		toc = append(toc, file(fmt.Sprintf("crowded/file_%06d.py", i), int64(i%1000)))
	}
	for i := range n - crowded {
		toc = append(toc, file(fmt.Sprintf("usr/local/lib/python3/dist-packages/d%d/d%d/f%02d.py", i/10_000, i/100%100, i%100), int64(i%1000)))
	}
	return toc
}

// TestMillion serves a layer of a million files, or of 200,000 where the race detector looks on.
func TestMillion(t *testing.T) {
	n := 1_000_000
	if underRace {
		n = 200_000
	}
	f := mustMount(t)
	_, data := mustAttach(t, f, "bytes", mustBuild(t, []ztoctest.File{ztoctest.Big(1, "a", 100_000)}))
	toc := millionTOC(n)
	before := f.Stats().TreeMemory
	start := time.Now()
	a, err := f.Attach("million", 0, entries(toc), data)
	must(t, err)
	memory := float64(f.Stats().TreeMemory-before) / float64(n)
	t.Logf("%d files attached in %v, %.1f bytes each", n, time.Since(start).Round(time.Millisecond), memory)
	if memory > maxMemory {
		t.Errorf("%.1f bytes of memory for a file, more than %d", memory, maxMemory)
	}

	start = time.Now()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `ls -U "$1" | wc -l; ls -U "$1" | sort -u | wc -l`, "sh", filepath.Join(a.Path, "crowded")).CombinedOutput()
	must(t, err)
	if got := strings.Fields(string(out)); len(got) != 2 || got[0] != fmt.Sprint(crowded) || got[1] != got[0] {
		t.Errorf("%s files listed, %d expected", out, crowded)
	}
	t.Logf("a directory of %d listed twice in %v", crowded, time.Since(start).Round(time.Millisecond))

	const lookups = 2000
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	var paths, want strings.Builder
	for range lookups {
		e := &toc[rng.IntN(n)]
		fmt.Fprintf(&paths, "%s\n", filepath.Join(a.Path, e.Name))
		fmt.Fprintf(&want, "%d\n", e.Size)
	}
	start = time.Now()
	stat := exec.CommandContext(t.Context(), "xargs", "stat", "-c", "%s")
	stat.Stdin = strings.NewReader(paths.String())
	out, err = stat.CombinedOutput()
	if err != nil || string(out) != want.String() {
		t.Errorf("%v, or the wrong sizes", err)
	}
	t.Logf("%d files looked up in %v", lookups, time.Since(start).Round(time.Millisecond))
	if err := exec.CommandContext(t.Context(), "stat", filepath.Join(a.Path, "crowded", "not there")).Run(); err == nil {
		t.Error("a file that is not there is")
	}
	must(t, f.Detach("million"))
}

func BenchmarkMillion(b *testing.B) { benchmarkBuild(b, millionTOC(1_000_000)) }

// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"os"
	"strings"
	"testing"

	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestReadAhead holds that the kernel reads less ahead while a layer is incomplete.
func TestReadAhead(t *testing.T) {
	f := mustMount(t)
	want := func(kib string) {
		t.Helper()
		b, err := os.ReadFile(f.aheadPath)
		must(t, err)
		if got := strings.TrimSpace(string(b)); got != kib {
			t.Errorf("readahead of %s KiB, want %s", got, kib)
		}
	}
	want("1024")
	_, l := mustAttach(t, f, "layer", mustBuild(t, []ztoctest.File{ztoctest.Big(1, "big", 1<<20)}))
	want("256")
	must(t, l.Fill(t.Context()))
	f.setReadAhead() // as from time to time
	want("1024")
	must(t, l.Close())
}

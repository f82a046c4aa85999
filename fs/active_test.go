// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"archive/tar"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// TestOnRequest is told of lookups, of which no bytes are read, and of reads.
func TestOnRequest(t *testing.T) {
	var requests atomic.Int64
	f := mustMountWith(t, Options{OnRequest: func() { requests.Add(1) }})
	d, _ := mustAttach(t, f, "layer", mustBuild(t, []ztoctest.File{{Header: tar.Header{Typeflag: tar.TypeReg, Name: "a", Mode: 0o644, Size: 5}, Data: []byte("bytes")}}))
	before := requests.Load()
	_, err := os.Stat(d) // as containerd does when it makes a snapshot upon the layer
	must(t, err)
	if requests.Load() != before {
		t.Error("told of a lookup of the layer")
	}
	_, err = os.Lstat(filepath.Join(d, "a"))
	must(t, err)
	looked := requests.Load()
	if looked == before {
		t.Error("not told of a lookup")
	}
	_, err = os.ReadFile(filepath.Join(d, "a"))
	must(t, err)
	if requests.Load() == looked {
		t.Error("not told of a read")
	}
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/ztoc"
)

// learn ROOT BLOB LAYER MANIFEST notes in the snapshotter's root directory that a start reads the end
// and then the beginning of a layer, of which BLOB is the file.
func learn(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.Open(args[1])
	ts.Check(err)
	defer f.Close()
	z, err := ztoc.Build(nodeOf(ts).ctx, f, ztoc.BuildOptions{})
	ts.Check(err)
	size := z.ZInfo.UncompressedSize
	p := index.NewProfile(size, []ztoc.Range{{Off: size - 700, Len: 500}, {Off: 0, Len: 100}})
	dir := index.ProfileDir(filepath.Join(ts.MkAbs(args[0]), "soci", "profiles"))
	ts.Check(dir.Save(digest.Digest(args[2]), digest.Digest(args[3]), p))
}
